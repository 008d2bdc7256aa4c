//! The bucket, as privacy needs it: encrypted multipart uploads, listing and deleting below a shop's own prefixes.
//!
//! It must never: write without SSE-KMS, or make a key from anything but a shop domain and a name of ours.

use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, ServerSideEncryption};
use gatehouse_shopify::ShopDomain;
use serde::{Deserialize, Serialize};

use super::DataError;

/// S3's smallest part but for the last
/// (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>).
pub const MIN_PART: usize = 5 * 1024 * 1024;

/// The bucket and the key that encrypts in it. Cheap to clone.
#[derive(Clone)]
pub struct Objects {
    client: Client,
    bucket: String,
    kms_key: String,
}

/// A multipart upload that is under way.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct Upload {
    pub(crate) id: String,
    /// Entity tags of the parts, first part first.
    pub(crate) parts: Vec<String>,
    pub(crate) bytes: u64,
}

impl Objects {
    /// `kms_key` encrypts every object (SSE-KMS).
    pub fn new(client: Client, bucket: impl Into<String>, kms_key: impl Into<String>) -> Self {
        Self { client, bucket: bucket.into(), kms_key: kms_key.into() }
    }

    /// Where a request's export lies.
    pub(crate) fn export_key(shop: &ShopDomain, request: &str) -> String {
        format!("exports/{shop}/{request}.json")
    }

    /// Below which all exports of a shop lie.
    pub(crate) fn exports(shop: &ShopDomain) -> String {
        format!("exports/{shop}/")
    }

    /// Below which all bodies of a shop lie that were too large for a message.
    pub(crate) fn deliveries(shop: &ShopDomain) -> String {
        format!("deliveries/{shop}/")
    }

    pub(crate) async fn begin(&self, key: &str, expires: &str) -> Result<Upload, DataError> {
        let answer = self
            .client
            .create_multipart_upload()
            .bucket(&self.bucket)
            .key(key)
            .content_type("application/json")
            .server_side_encryption(ServerSideEncryption::AwsKms)
            .ssekms_key_id(&self.kms_key)
            .bucket_key_enabled(true)
            .metadata("expires-at", expires)
            .send()
            .await
            .map_err(|e| refused(&e))?;
        let id = answer.upload_id.ok_or_else(|| DataError::Bucket("NoUploadId".to_owned()))?;
        Ok(Upload { id, ..Upload::default() })
    }

    pub(crate) async fn part(&self, key: &str, upload: &mut Upload, bytes: Vec<u8>) -> Result<(), DataError> {
        let length = bytes.len() as u64;
        let answer = self
            .client
            .upload_part()
            .bucket(&self.bucket)
            .key(key)
            .upload_id(&upload.id)
            .part_number(part_number(upload.parts.len()))
            .body(ByteStream::from(bytes))
            .send()
            .await
            .map_err(|e| refused(&e))?;
        upload.parts.push(answer.e_tag.ok_or_else(|| DataError::Bucket("NoETag".to_owned()))?);
        upload.bytes += length;
        Ok(())
    }

    pub(crate) async fn complete(&self, key: &str, upload: &Upload) -> Result<(), DataError> {
        let parts = upload
            .parts
            .iter()
            .enumerate()
            .map(|(n, tag)| CompletedPart::builder().part_number(part_number(n)).e_tag(tag).build());
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts.collect())).build();
        self.client
            .complete_multipart_upload()
            .bucket(&self.bucket)
            .key(key)
            .upload_id(&upload.id)
            .multipart_upload(parts)
            .send()
            .await
            .map(|_| ())
            .map_err(|e| refused(&e))
    }

    /// Aborting what is no longer there succeeds.
    pub(crate) async fn abort(&self, key: &str, upload_id: &str) -> Result<(), DataError> {
        let answer =
            self.client.abort_multipart_upload().bucket(&self.bucket).key(key).upload_id(upload_id).send().await;
        match answer.map_err(|e| refused(&e)) {
            Err(DataError::Bucket(code)) if code == "NoSuchUpload" => Ok(()),
            other => other.map(|_| ()),
        }
    }

    pub(crate) async fn put(&self, key: &str, bytes: Vec<u8>) -> Result<(), DataError> {
        self.client
            .put_object()
            .bucket(&self.bucket)
            .key(key)
            .server_side_encryption(ServerSideEncryption::AwsKms)
            .ssekms_key_id(&self.kms_key)
            .bucket_key_enabled(true)
            .body(ByteStream::from(bytes))
            .send()
            .await
            .map(|_| ())
            .map_err(|e| refused(&e))
    }

    /// A stream of the object, or of `range` (first and last byte) of it. `None` when there is no such object.
    pub(crate) async fn stream(&self, key: &str, range: Option<(u64, u64)>) -> Result<Option<ByteStream>, DataError> {
        let range = range.map(|(first, last)| format!("bytes={first}-{last}"));
        match self.client.get_object().bucket(&self.bucket).key(key).set_range(range).send().await {
            Ok(answer) => Ok(Some(answer.body)),
            Err(error) => match refused(&error) {
                DataError::Bucket(code) if code == "NoSuchKey" || code == "NotFound" => Ok(None),
                other => Err(other),
            },
        }
    }

    pub(crate) async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, DataError> {
        match self.stream(key, None).await? {
            Some(body) => {
                let bytes = body.collect().await.map_err(|_| DataError::Bucket("BodyBroken".to_owned()))?;
                Ok(Some(bytes.to_vec()))
            }
            None => Ok(None),
        }
    }

    /// Deleting what is not there succeeds.
    pub(crate) async fn delete(&self, key: &str) -> Result<(), DataError> {
        self.client.delete_object().bucket(&self.bucket).key(key).send().await.map(|_| ()).map_err(|e| refused(&e))
    }

    /// One page of the keys below a prefix with their times of writing (seconds), in the order of the keys.
    pub(crate) async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: i32,
    ) -> Result<Vec<(String, Option<i64>)>, DataError> {
        let answer = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(prefix)
            .set_start_after(after.map(str::to_owned))
            .max_keys(limit)
            .send()
            .await
            .map_err(|e| refused(&e))?;
        let contents = answer.contents.unwrap_or_default().into_iter();
        Ok(contents.filter_map(|o| Some((o.key?, o.last_modified.map(|at| at.secs())))).collect())
    }

    /// Uploads below a prefix that were begun and never finished: keys and upload ids, at most 1,000.
    pub(crate) async fn unfinished(&self, prefix: &str) -> Result<Vec<(String, String)>, DataError> {
        let answer = self.client.list_multipart_uploads().bucket(&self.bucket).prefix(prefix).send().await;
        let uploads = answer.map_err(|e| refused(&e))?.uploads.unwrap_or_default();
        Ok(uploads.into_iter().filter_map(|u| Some((u.key?, u.upload_id?))).collect())
    }
}

fn part_number(index: usize) -> i32 {
    i32::try_from(index + 1).unwrap_or(i32::MAX)
}

/// By AWS's error code alone: its messages quote keys.
fn refused<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> DataError {
    let code = error.as_service_error().and_then(ProvideErrorMetadata::code);
    DataError::Bucket(code.unwrap_or("NoAnswer").to_owned())
}
