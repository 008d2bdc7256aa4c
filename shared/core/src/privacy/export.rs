//! The export file: one JSON document, written as a stream of parts, so that its size is not the memory's.
//!
//! Its form is documented in `docs/PRIVACY.md` and versioned by its `format` member. The writer can be put to sleep
//! between two pages and woken in another process.

use std::collections::BTreeMap;

use gatehouse_shopify::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::DataError;
use super::data::Subject;
use super::objects::{MIN_PART, Objects, Upload};
use super::request::RequestId;

/// The document's `format` member.
pub const FORMAT: &str = "gatehouse.customer-data/1";

/// The code of a sleeping writer whose bytes are gone: another worker has gone on, and finished.
const TAIL_MISSING: &str = "TailMissing";
/// The code of a sleeping writer beside whose state lie another's bytes: a worker went on from there and was killed before it
/// could say so, or is at it still.
const TAIL_CHANGED: &str = "TailChanged";
/// Codes after which a writer that was put to sleep cannot go on: the document has to be written from its beginning.
pub(crate) const BEGIN_AGAIN: [&str; 4] = ["NoSuchUpload", "InvalidPart", TAIL_MISSING, TAIL_CHANGED];

/// What a sleeping writer needs to go on, but for the bytes that fill no part yet: they lie beside the export in S3.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Writing {
    upload: Upload,
    /// A section is open, and whether a record is in it.
    open: Option<bool>,
    /// A section was written before.
    any: bool,
    /// The SHA-256 of the bytes that fill no part yet.
    tail: Option<String>,
}

/// Writes the document.
pub(crate) struct Writer<'a> {
    objects: &'a Objects,
    key: String,
    state: Writing,
    buffer: Vec<u8>,
}

impl<'a> Writer<'a> {
    /// Begins the upload and the document.
    pub(crate) async fn begin(
        objects: &'a Objects,
        id: &RequestId,
        subject: &Subject,
        now: Timestamp,
        expires: Timestamp,
    ) -> Result<Self, DataError> {
        let key = Objects::export_key(&subject.shop, &id.to_string());
        let upload = objects.begin(&key, &expires.to_rfc3339()).await?;
        let head = json!({
            "format": FORMAT,
            "shop": subject.shop,
            "request": {"id": id.to_string(), "topic": id.kind().topic(), "received_at": id.received().to_rfc3339()},
            "generated_at": now.to_rfc3339(),
            "expires_at": expires.to_rfc3339(),
            "customer": {"ids": subject.customer_ids, "emails": subject.emails, "phones": subject.phones},
        });
        let mut buffer = head.to_string().into_bytes();
        // The closing brace comes back in `finish`.
        buffer.pop();
        buffer.extend_from_slice(b",\"sections\":{");
        Ok(Self { objects, key, state: Writing { upload, open: None, any: false, tail: None }, buffer })
    }

    /// Wakes a writer. The bytes beside the export must be those that its state speaks of: two writers of one export write to
    /// one place.
    pub(crate) async fn wake(objects: &'a Objects, key: String, state: Writing) -> Result<Self, DataError> {
        let buffer = match &state.tail {
            Some(digest) => {
                let bytes = objects.get(&tail(&key)).await?;
                let bytes = bytes.ok_or_else(|| DataError::Bucket(TAIL_MISSING.to_owned()))?;
                if digest_of(&bytes) != *digest {
                    return Err(DataError::Bucket(TAIL_CHANGED.to_owned()));
                }
                bytes
            }
            None => Vec::new(),
        };
        Ok(Self { objects, key, state, buffer })
    }

    /// One page of one section.
    pub(crate) async fn page(&mut self, section: &str, records: &[serde_json::Value]) -> Result<(), DataError> {
        if self.state.open.is_none() {
            if self.state.any {
                self.buffer.push(b',');
            }
            self.buffer.extend_from_slice(json!(section).to_string().as_bytes());
            self.buffer.extend_from_slice(b":[");
            self.state.open = Some(false);
            self.state.any = true;
        }
        for record in records {
            if self.state.open == Some(true) {
                self.buffer.push(b',');
            }
            self.state.open = Some(true);
            serde_json::to_writer(&mut self.buffer, record).map_err(|_| DataError::Payload("record_not_json"))?;
        }
        if self.buffer.len() >= MIN_PART {
            let bytes = std::mem::take(&mut self.buffer);
            self.objects.part(&self.key, &mut self.state.upload, bytes).await?;
        }
        Ok(())
    }

    /// The section's last page was written.
    pub(crate) fn end_section(&mut self) {
        if self.state.open.take().is_some() {
            self.buffer.push(b']');
        }
    }

    /// Puts it to sleep between two pages.
    pub(crate) async fn sleep(mut self) -> Result<Writing, DataError> {
        self.state.tail = Some(digest_of(&self.buffer));
        self.objects.put(&tail(&self.key), self.buffer).await?;
        Ok(self.state)
    }

    /// Ends the document and the upload; returns its size in bytes. What lies beside it is for [`tidy`], once the table knows
    /// of the file: until then whoever goes on needs it.
    pub(crate) async fn finish(mut self, counts: &BTreeMap<String, u64>) -> Result<u64, DataError> {
        self.buffer.extend_from_slice(b"},\"counts\":");
        self.buffer.extend_from_slice(json!(counts).to_string().as_bytes());
        self.buffer.push(b'}');
        let bytes = std::mem::take(&mut self.buffer);
        self.objects.part(&self.key, &mut self.state.upload, bytes).await?;
        self.objects.complete(&self.key, &self.state.upload).await?;
        Ok(self.state.upload.bytes)
    }

    /// There is nothing to hand out.
    pub(crate) async fn drop_all(self) -> Result<(), DataError> {
        erase(self.objects, &self.key).await
    }
}

fn tail(key: &str) -> String {
    format!("{key}.tail")
}

fn digest_of(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Ends what other workers have begun beside a finished export.
pub(crate) async fn tidy(objects: &Objects, key: &str) -> Result<(), DataError> {
    for (found, upload) in objects.unfinished(key).await? {
        objects.abort(&found, &upload).await?;
    }
    objects.delete(&tail(key)).await
}

/// Deletes an export, whatever state it is in.
pub(crate) async fn erase(objects: &Objects, key: &str) -> Result<(), DataError> {
    tidy(objects, key).await?;
    objects.delete(key).await
}
