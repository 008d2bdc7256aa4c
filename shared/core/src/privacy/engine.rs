//! The engine: takes a request into the ledger and works it off, page by page, from wherever the last worker stopped.
//!
//! What a customer's request needs lies sealed in the shop's partition (`JOB#…`) until it is closed: whom it is about and
//! how far it got. So it survives the loss of its message, and goes with the shop when that is erased. A kill
//! repeats at most the page that was under way, which changes nothing but that page's count.

use std::collections::BTreeMap;

use aws_sdk_s3::primitives::ByteStream;
use gatehouse_shopify::{ShopDomain, Timestamp, compliance};
use serde::{Deserialize, Serialize};

use super::data::{Registry, Subject};
use super::export::{Writer, Writing};
use super::ledger::{self, Closing, Entry, NewEntry, State};
use super::objects::Objects;
use super::queues::Queues;
use super::request::{Asked, Kind, RequestId};
use super::{Budget, DataError, Retention, export, sections};
use crate::audit::{self, Actor};
use crate::aws;
use crate::config::{AppSettings, QueueSettings, TableSettings};
use crate::mirror::{Graves, Mirror, STONES, ShopKey, WRITTEN_AT};
use crate::queue::{Body, Envelope, QueueError, Source, Version};
use crate::seal::{Bounds, Sealer};
use crate::store::{Cond, Cursor, Due, Fence, Item, Key, StoreError, Table, Write};
use crate::telemetry::{Metric, count};

/// How far a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Closed, now or before.
    Closed(State),
    /// The budget is spent: what was reached is stored, and the message was sent again.
    Paused,
}

/// An export, ready to be handed to the merchant.
pub struct ExportFile {
    /// Its whole size in bytes.
    pub bytes: u64,
    /// When it is deleted.
    pub expires_at: Timestamp,
    /// The content, or the range of it that was asked for.
    pub content: ByteStream,
}

/// Everything that privacy works on. Cheap to clone.
#[derive(Clone)]
pub struct Privacy {
    pub(crate) table: Table,
    pub(crate) mirror: Mirror,
    pub(crate) objects: Objects,
    pub(crate) queues: Queues,
    pub(crate) registry: Registry,
    pub(crate) keep: Retention,
}

/// A customer's request under way, as it lies sealed in the shop's partition.
#[derive(Serialize, Deserialize)]
struct Job {
    asked: Asked,
    triggered_at: Timestamp,
    subject: Option<Subject>,
    section: Option<String>,
    after: Option<String>,
    counts: BTreeMap<String, u64>,
    writing: Option<Writing>,
    /// How often letters were in somebody else's hands when an export looked for the customer's among them.
    #[serde(default)]
    hidden: u32,
}

impl Job {
    /// Nothing is done yet.
    fn new(asked: Asked, triggered_at: Timestamp) -> Self {
        let (subject, section, after, writing) = (None, None, None, None);
        Self { asked, triggered_at, subject, section, after, counts: BTreeMap::new(), writing, hidden: 0 }
    }
}

/// An export's file as it lies complete in the bucket.
struct Finished {
    bytes: u64,
    expires: Timestamp,
    counts: BTreeMap<String, u64>,
    /// Letters that nobody could see are not in it.
    hidden: bool,
}

impl Finished {
    fn read(row: &Item) -> Result<Self, StoreError> {
        let malformed = || StoreError::Malformed(BYTES);
        let counts = row.get_text(COUNTS).map(serde_json::from_str).transpose().map_err(|_| malformed())?;
        Ok(Self {
            bytes: u64::try_from(row.need_number(BYTES)?).map_err(|_| malformed())?,
            expires: row.get_time(ENDS_AT).ok_or_else(malformed)?,
            counts: counts.unwrap_or_default(),
            hidden: row.has(HIDDEN),
        })
    }

    fn onto(&self, row: Item) -> Result<Item, StoreError> {
        let counts = serde_json::to_string(&self.counts).map_err(|_| StoreError::Malformed(COUNTS))?;
        let row = row.number(BYTES, i64::try_from(self.bytes).unwrap_or(i64::MAX)).text(COUNTS, counts);
        Ok(if self.hidden { row.number(HIDDEN, 1) } else { row })
    }
}

/// What came of announcing an export in the table.
enum Announced {
    /// It is this worker's to write.
    Open,
    /// Another worker has written it.
    Finished(Finished),
    /// An erasure took it away.
    Erased,
}

/// What came of writing an export.
enum Written {
    Finished(Finished),
    /// It was paused, closed, or given up; as [`Privacy::collect`] has it.
    Ended(Option<Outcome>),
}

const JOB: &str = "JOB";
/// On an export's row: how large the finished file is. From then on it is never written again, only handed out or erased.
const BYTES: &str = "bytes";
/// Beside it: how many records of which section are in the file.
const COUNTS: &str = "counts";
/// Beside it: when the file goes.
pub(super) const ENDS_AT: &str = "ends_at";
/// Beside it: letters were out of sight, see [`Finished`].
const HIDDEN: &str = "hidden";
/// Also the code of the decision by which a request is closed whose export cannot hold them.
const LETTERS_HIDDEN: &str = "dead_letters_hidden";
/// So often an export comes again for letters that are out of sight; each time half an hour later.
const HIDDEN_TRIES: u32 = 3;
/// How long the row of an export stays behind its end, if the keeper does not come: the row says what there is to delete, so
/// that DynamoDB must not sweep it before.
const ROW_STAYS_SECS: i64 = 35 * 86_400;
const SEALED: &str = "sealed";

impl Privacy {
    /// Over the house's own data, for whoever has the parts already; [`Privacy::connect`] opens them. Every function and the
    /// command line come by here: an app's own data is registered here, below the house's, and so is forgotten nowhere.
    pub fn new(table: Table, sealer: Sealer, objects: Objects, queues: Queues, keep: Retention) -> Self {
        let mirror = Mirror::new(table.clone(), sealer, keep.clone());
        // Orders before customers: whom the orders belong to is found by the customers.
        let registry = Registry::new()
            .with(sections::Orders(mirror.clone()))
            .with(sections::Customers(mirror.clone()))
            .with(sections::Deliveries(table.clone()))
            .with(sections::WaitingBodies(objects.clone()))
            .with(sections::DeadLetters { queues: queues.clone(), table: table.clone() })
            .with(sections::Exports { table: table.clone(), objects: objects.clone() })
            .with(sections::Audits(table.clone()))
            .with(sections::Requests(table.clone()));
        Self { table, mirror, objects, queues, registry, keep }
    }

    /// [`Privacy::new`] over clients of its own, as the settings say.
    pub fn connect(
        config: &aws_config::SdkConfig,
        app: &AppSettings,
        table: &TableSettings,
        queue: &QueueSettings,
        keep: Retention,
    ) -> Self {
        let store = Table::new(aws::dynamodb(config), table.table.as_str());
        let kms_key = table.kms_key.as_str();
        let sealer = Sealer::new(aws::kms(config), kms_key, app.client_id.as_str(), Bounds::default());
        let objects = Objects::new(aws::s3(config), queue.bucket.as_str(), kms_key);
        let queues = Queues::new(aws::sqs(config), queue.privacy.as_str(), queue.events.as_str());
        Self::new(store, sealer, objects, queues, keep)
    }

    /// The table that it works on.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// How long what is kept.
    pub fn retention(&self) -> &Retention {
        &self.keep
    }

    /// With one more section, in this process alone: for tests. See [`Privacy::new`].
    #[must_use]
    pub fn with(mut self, section: impl super::PersonalData + 'static) -> Self {
        self.registry = self.registry.with(section);
        self
    }

    /// The mirror that it covers.
    pub fn mirror(&self) -> &Mirror {
        &self.mirror
    }

    /// Takes the request of a delivery into the ledger, if it is not there, and works on it within the budget. `body` reads
    /// the delivery's body; it is asked for only when the request is new.
    ///
    /// # Errors
    /// [`DataError`]; the ledger then says `failed` with its code, and the call may be repeated.
    pub async fn handle(
        &self,
        envelope: &Envelope,
        body: impl AsyncFnOnce() -> Result<String, QueueError>,
        budget: &mut Budget,
        now: Timestamp,
    ) -> Result<Outcome, DataError> {
        let kind = Kind::of_topic(&envelope.topic).ok_or(DataError::Payload("not_a_privacy_topic"))?;
        let id = self.take_in(envelope, kind, body, now).await?;
        let entry = ledger::get(&self.table, &envelope.shop, &id).await?.ok_or(DataError::NotFound)?;
        if entry.state.is_closed() {
            self.clear_up(&envelope.shop, &id).await?;
            return self.look_again(&envelope.shop, &entry, budget, now).await;
        }
        if entry.unread {
            // Another worker has found that it cannot read it: this one's copy is read when it comes again.
            return Err(DataError::Busy);
        }
        if !ledger::working(&self.table, &envelope.shop, &id, now).await? {
            return Err(DataError::Busy);
        }
        let worked = match kind {
            Kind::ShopRedact => self.erase_shop(envelope, &id, budget, now).await,
            Kind::DataRequest | Kind::CustomerRedact => self.work(&envelope.shop, &id, budget, now).await,
        };
        if let Err(error) = &worked {
            ledger::failed(&self.table, &envelope.shop, &id, error.code(), now).await?;
        }
        worked
    }

    /// Writes down why work on a request ended that could not say so itself: its time was over, or it panicked.
    ///
    /// # Errors
    /// [`DataError`].
    pub async fn ended(&self, envelope: &Envelope, code: &'static str, now: Timestamp) -> Result<(), DataError> {
        let Some(kind) = Kind::of_topic(&envelope.topic) else { return Ok(()) };
        let name = ledger::by_delivery(&envelope.webhook_id);
        if let Some(id) = ledger::find(&self.table, &envelope.shop, kind, &name).await? {
            ledger::failed(&self.table, &envelope.shop, &id, code, now).await?;
        }
        Ok(())
    }

    /// One page of a shop's requests, newest first, at most 100.
    ///
    /// # Errors
    /// [`DataError`].
    pub async fn list(
        &self,
        shop: &ShopDomain,
        after: Option<&Cursor>,
        limit: u16,
    ) -> Result<(Vec<Entry>, Option<Cursor>), DataError> {
        Ok(ledger::list(&self.table, shop, after, limit.clamp(1, 100)).await?)
    }

    /// One request.
    ///
    /// # Errors
    /// [`DataError`].
    pub async fn get(&self, shop: &ShopDomain, id: &RequestId) -> Result<Option<Entry>, DataError> {
        Ok(ledger::get(&self.table, shop, id).await?)
    }

    /// Opens the export of a data request, or a range of it (first and last byte), after an audit record was written.
    ///
    /// # Errors
    /// [`DataError::NotFound`] when there is none, not yet, or not any more; else [`DataError`].
    pub async fn open_export(
        &self,
        shop: &ShopDomain,
        id: &RequestId,
        range: Option<(u64, u64)>,
        reader: &Actor,
        now: Timestamp,
    ) -> Result<ExportFile, DataError> {
        let name = &id.to_string();
        let (bytes, expires_at) = Fence::hold(&self.table, shop, move |fence| async move {
            let item = self.table.get(&Key::export(shop, name)).await?.ok_or(DataError::NotFound)?;
            let ready = item.get_number(BYTES).and_then(|bytes| u64::try_from(bytes).ok());
            let ends_at = item.get_time(ENDS_AT).filter(|end| *end > now);
            let (Some(bytes), Some(expires_at)) = (ready, ends_at) else { return Err(DataError::NotFound) };
            let marks = item.get_text("subjects").unwrap_or_default().split(' ').map(str::to_owned);
            let marks: Vec<String> = marks.collect();
            audit::record(&self.table, &fence, reader, "export.open", 1, &marks, now, &self.keep).await?;
            Ok((bytes, expires_at))
        })
        .await?;
        let content = self.objects.stream(&Objects::export_key(shop, name), range).await?;
        Ok(ExportFile { bytes, expires_at, content: content.ok_or(DataError::NotFound)? })
    }

    /// Until when everything of this shop is erased, if it ever was.
    ///
    /// # Errors
    /// [`DataError`].
    pub async fn erased_at(&self, shop: &ShopDomain) -> Result<Option<Timestamp>, DataError> {
        self.mirror.shop_erased_at(shop).await
    }

    /// What a worker left that was killed after another had closed the request, or while an erasure closed it: S3 knows no
    /// transaction with the table, so the message is acknowledged only when nothing is there any more.
    pub(super) async fn clear_up(&self, shop: &ShopDomain, id: &RequestId) -> Result<(), DataError> {
        match id.kind() {
            Kind::DataRequest => {
                let name = id.to_string();
                let entry = ledger::get(&self.table, shop, id).await?;
                let handed_out = entry.is_some_and(|entry| entry.export_bytes.is_some());
                if !handed_out {
                    // Announced by a worker that was killed after another had found nothing.
                    self.table.delete(&Key::export(shop, &name), None).await?;
                }
                if !handed_out || self.table.get(&Key::export(shop, &name)).await?.is_none() {
                    export::erase(&self.objects, &Objects::export_key(shop, &name)).await?;
                }
                self.table.delete(&job_key(shop, id), None).await?;
            }
            Kind::CustomerRedact => {
                self.table.delete(&job_key(shop, id), None).await?;
            }
            Kind::ShopRedact => self.forget_erasure(shop, id).await?,
        }
        Ok(())
    }

    /// The second look of a closed erasure, once it is due.
    async fn look_again(
        &self,
        shop: &ShopDomain,
        entry: &Entry,
        budget: &mut Budget,
        now: Timestamp,
    ) -> Result<Outcome, DataError> {
        if entry.sweep_at.is_some_and(|at| at <= now) {
            let Some(found) = self.sweep(shop, budget, now).await? else {
                // The keeper sends it again as long as it is on its list.
                return Ok(Outcome::Closed(entry.state));
            };
            ledger::swept(&self.table, shop, &entry.id).await?;
            tracing::info!(%shop, request = %entry.id, found, "an erasure was looked at again");
        }
        Ok(Outcome::Closed(entry.state))
    }

    async fn take_in(
        &self,
        envelope: &Envelope,
        kind: Kind,
        body: impl AsyncFnOnce() -> Result<String, QueueError>,
        now: Timestamp,
    ) -> Result<RequestId, DataError> {
        let shop = &envelope.shop;
        let by_delivery = ledger::by_delivery(&envelope.webhook_id);
        let known = ledger::find(&self.table, shop, kind, &by_delivery).await?;
        if let Some(id) = &known
            && !ledger::get(&self.table, shop, id).await?.is_some_and(|entry| entry.unread)
        {
            return Ok(id.clone());
        }
        let asked = match body().await {
            // Attack: any signed body that was caught and names no shop, sent again under `shop/redact` and a victim's domain:
            // topic and shop are headers that nothing signs.
            Ok(body) if !compliance::names(&body, shop) => Err(DataError::Payload("shop_not_named")),
            Ok(body) => Asked::parse(kind, &body),
            Err(error) => Err(error.into()),
        };
        let asked = match asked {
            Ok(asked) => asked,
            Err(error) => return self.enter_unread(envelope, kind, known, error, now).await,
        };
        let mut names = vec![by_delivery.clone()];
        if let Some(request) = asked.data_request {
            let by_request = format!("request.{request}");
            if let Some(other) = ledger::find(&self.table, shop, kind, &by_request).await? {
                if let Some(id) = known {
                    self.close(shop, &id, State::NothingHeld, &Closing::because("repeated"), now).await?;
                }
                return Ok(other);
            }
            names.push(by_request);
        }
        let key = asked.data_request.map_or_else(|| envelope.webhook_id.clone(), |id| id.to_string());
        let is_known = known.is_some();
        let id = known.unwrap_or_else(|| RequestId::new(envelope.received_at, kind, &key));
        let triggered_at = envelope.triggered_at.unwrap_or(envelope.received_at);
        let new = NewEntry {
            id: &id,
            webhook_id: &envelope.webhook_id,
            triggered_at,
            names: &names,
            expires: self.keep.ledger(now),
            unread: None,
        };
        let (asked, id_of, new) = (&asked, &id, &new);
        let opened = Fence::hold(&self.table, shop, move |fence| async move {
            // Nothing may be written into the partition of a shop that is erased.
            let job = match kind {
                Kind::DataRequest | Kind::CustomerRedact if !fence.is_erased(triggered_at) => {
                    let job = Job::new(asked.clone(), triggered_at);
                    let item = seal(&self.mirror.key(&fence, now).await?, shop, id_of, &job, now)?;
                    Some(Write::Put { key: job_key(shop, id_of), item, only_if: None })
                }
                _ => None,
            };
            Ok::<_, DataError>(match is_known {
                true => ledger::read(&self.table, new, &fence, job, now).await?,
                false => ledger::open(&self.table, new, &fence, job, now).await?,
            })
        });
        if opened.await? {
            if !is_known {
                count(Metric::PrivacyReceived, &[("topic", kind.topic())]);
            }
            return Ok(id);
        }
        // Another worker took the same request in: theirs counts.
        for name in &names {
            if let Some(id) = ledger::find(&self.table, shop, kind, name).await? {
                return Ok(id);
            }
        }
        Err(DataError::Busy)
    }

    /// Enters a request that cannot be read, so that its deadline is watched like any other's: it has no job, its message is
    /// all there is of it. Gives the error back.
    async fn enter_unread(
        &self,
        envelope: &Envelope,
        kind: Kind,
        known: Option<RequestId>,
        error: DataError,
        now: Timestamp,
    ) -> Result<RequestId, DataError> {
        let (shop, code) = (&envelope.shop, error.code());
        if let Some(id) = known {
            ledger::failed(&self.table, shop, &id, code, now).await?;
            return Err(error);
        }
        let id = RequestId::new(envelope.received_at, kind, &envelope.webhook_id);
        let names = [ledger::by_delivery(&envelope.webhook_id)];
        let triggered_at = envelope.triggered_at.unwrap_or(envelope.received_at);
        let (id_of, names) = (&id, names.as_slice());
        let (opened, over) = Fence::hold(&self.table, shop, move |fence| async move {
            // A customer's request to a shop that is erased: whatever it says, there is nothing left to do it on.
            let over = kind != Kind::ShopRedact && fence.is_erased(triggered_at);
            let new = NewEntry {
                id: id_of,
                webhook_id: &envelope.webhook_id,
                triggered_at,
                names,
                expires: self.keep.ledger(now),
                unread: (!over).then_some(code),
            };
            Ok::<_, DataError>((ledger::open(&self.table, &new, &fence, None, now).await?, over))
        })
        .await?;
        if opened {
            count(Metric::PrivacyReceived, &[("topic", kind.topic())]);
        }
        if opened && over { Ok(id) } else { Err(error) }
    }

    async fn work(
        &self,
        shop: &ShopDomain,
        id: &RequestId,
        budget: &mut Budget,
        now: Timestamp,
    ) -> Result<Outcome, DataError> {
        let job = self.table.get(&job_key(shop, id)).await?;
        let (Some(item), Some(key)) = (job, self.mirror.existing_key(shop, now).await?) else {
            // Only an erasure takes a job, or the key, away before it is closed: there is nothing left to do it on. Or another
            // worker has closed it since we looked. A worker
            // that was killed may have written of its export what the erasure came too early for.
            self.clear_up(shop, id).await?;
            if let Some(entry) = ledger::get(&self.table, shop, id).await?.filter(|entry| entry.state.is_closed()) {
                return Ok(Outcome::Closed(entry.state));
            }
            return self.close(shop, id, State::NothingHeld, &Closing::because("shop_erased"), now).await;
        };
        let plain = key.open(&job_key(shop, id), SEALED, item.need_bytes(SEALED)?)?;
        let mut job: Job = serde_json::from_slice(&plain).map_err(|_| StoreError::Malformed(SEALED))?;
        loop {
            let subject = match &job.subject {
                Some(subject) => subject.clone(),
                None => {
                    let subject = self.begin(shop, &key, id, &job, now).await?;
                    job.subject = Some(subject.clone());
                    // The subject has them, and an item holds 400 KB.
                    job.asked.orders.clear();
                    self.save(shop, &key, id, &job, now).await?;
                    subject
                }
            };
            if id.kind() != Kind::DataRequest {
                return self.redact(id, &key, job, &subject, budget, now).await;
            }
            let (mut asked, triggered_at) = (job.asked.clone(), job.triggered_at);
            asked.orders.clone_from(&subject.order_ids);
            if let Some(outcome) = self.collect(id, &key, job, &subject, budget, now).await? {
                return Ok(outcome);
            }
            // All that was collected, and whom the mirror knew the customer as, was erased; or the file is another's by now.
            job = Job::new(asked, triggered_at);
            self.save(shop, &key, id, &job, now).await?;
        }
    }

    /// Finds out whom a request is about.
    async fn begin(
        &self,
        shop: &ShopDomain,
        key: &ShopKey,
        id: &RequestId,
        job: &Job,
        now: Timestamp,
    ) -> Result<Subject, DataError> {
        if id.kind() == Kind::CustomerRedact {
            // What is written from here on is newer: whom the request is about can be read in peace.
            let (asked, address) = (&job.asked, job.asked.address());
            let contacts = key.contacts(asked.email.as_deref(), asked.phone.as_deref());
            let graves = Graves {
                customers: asked.customer_id.as_slice(),
                orders: &asked.orders,
                contacts: &contacts,
                addresses: &address.map(|by| key.contacts(by.email(), by.phone())).unwrap_or_default(),
            };
            self.bury(shop, key, &graves, job.triggered_at, now).await?;
        }
        let subject = self.subject(shop, key, id, job, now).await?;
        // A guest has no mark. As a guest's order is somebody's by its address, else by its phone number, so is this.
        let (emails, phones) = (&subject.emails, &subject.phones);
        let mut known_by: Vec<_> = emails.iter().flat_map(|email| key.contacts(Some(email), None)).collect();
        if known_by.is_empty() {
            known_by = phones.iter().flat_map(|phone| key.contacts(None, Some(phone))).collect();
        }
        ledger::concerns(&self.table, shop, id, &subject.marks, &known_by).await?;
        Ok(subject)
    }

    /// Whom a request is about.
    async fn subject(
        &self,
        shop: &ShopDomain,
        key: &ShopKey,
        id: &RequestId,
        job: &Job,
        now: Timestamp,
    ) -> Result<Subject, DataError> {
        let asked = &job.asked;
        let address = asked.address();
        let mut customer_ids: Vec<u64> = asked.customer_id.into_iter().collect();
        if let Some(address) = &address {
            customer_ids = self.mirror.customers_by_contact(shop, address.email(), address.phone(), now).await?;
        }
        let mut emails: Vec<String> = asked.email.iter().cloned().collect();
        let mut phones: Vec<String> = asked.phone.iter().cloned().collect();
        for id in &customer_ids {
            if let Some(customer) = self.mirror.read_customer(shop, key, *id).await? {
                emails.extend(customer.email);
                phones.extend(customer.phone);
            }
        }
        for list in [&mut emails, &mut phones] {
            list.sort_unstable();
            list.dedup();
        }
        let mut contacts: Vec<String> = emails.iter().flat_map(|email| key.contacts(Some(email), None)).collect();
        contacts.extend(phones.iter().flat_map(|phone| key.contacts(None, Some(phone))));
        contacts.sort_unstable();
        contacts.dedup();
        Ok(Subject {
            shop: shop.clone(),
            marks: customer_ids.iter().map(|id| key.customer(*id)).collect(),
            customer_ids,
            address,
            order_ids: asked.orders.clone(),
            emails,
            phones,
            contacts,
            as_of: job.triggered_at,
            request: id.to_string(),
            as_far_as_seen: false,
        })
    }

    async fn redact(
        &self,
        id: &RequestId,
        key: &ShopKey,
        mut job: Job,
        subject: &Subject,
        budget: &mut Budget,
        now: Timestamp,
    ) -> Result<Outcome, DataError> {
        let shop = &subject.shop;
        if job.section.is_none() {
            // Tombstones first: from here on nothing as old as the request is stored, so the pages below see all there is.
            // Of the orders those that the request names have theirs since it was begun.
            let Subject { customer_ids, contacts, .. } = subject;
            let graves = Graves { customers: customer_ids, orders: &[], contacts, addresses: &[] };
            self.bury(shop, key, &graves, subject.as_of, now).await?;
        }
        let mut at = self.registry.position(job.section.as_deref()).unwrap_or(0);
        while let Some(section) = self.registry.sections().get(at) {
            if !budget.spend() {
                return self.pause(shop, key, id, &job, now).await;
            }
            if section.name() == sections::EXPORTS && job.after.is_none() {
                // The customer's data is gone. What others have read of it until now they may not write any more, neither
                // as an export nor as the record of having read it: the sections from here on see all of that.
                self.close_covered(subject, now).await?;
                Fence::raise(&self.table, shop, None, self.keep.tombstones(now)).await?;
            }
            let page = section.erase(subject, job.after.as_deref()).await?;
            *job.counts.entry(section.name().to_owned()).or_default() += page.erased;
            at += usize::from(page.next.is_none());
            job.after = page.next;
            job.section = self.registry.sections().get(at).map(|section| section.name().to_owned());
            self.save(shop, key, id, &job, now).await?;
        }
        job.counts.retain(|_, count| *count > 0);
        let state = if job.counts.is_empty() { State::NothingHeld } else { State::Done };
        self.close(shop, id, state, &Closing { counts: Some(&job.counts), ..Closing::default() }, now).await
    }

    /// Tombstones, and the fence behind them. Each few for themselves: a shop that is busy disturbs no more than those.
    async fn bury(
        &self,
        shop: &ShopDomain,
        key: &ShopKey,
        graves: &Graves<'_>,
        at: Timestamp,
        now: Timestamp,
    ) -> Result<(), DataError> {
        for some in graves.stones(shop, key).chunks(STONES) {
            let bury = move |fence: Fence| async move {
                // The shop was erased meanwhile: nothing of it may stay, and nothing as old as this comes back.
                if fence.is_erased(at) {
                    return Ok(());
                }
                self.mirror.bury_redacted(&fence, some, at, now).await
            };
            Fence::hold(&self.table, shop, bury).await?;
        }
        Ok(Fence::raise(&self.table, shop, None, self.keep.tombstones(now)).await?)
    }

    /// Data requests about the same customer that are no younger and still open have nothing left to hand out. A younger one
    /// begins again ([`Privacy::collect`]); another erasure goes on, for it may reach further: to what is newer than this one,
    /// to orders that it alone names.
    async fn close_covered(&self, by: &Subject, now: Timestamp) -> Result<(), DataError> {
        let shop = &by.shop;
        let mut after = None;
        loop {
            let (entries, next) = ledger::list(&self.table, shop, after.as_ref(), 100).await?;
            for entry in entries {
                let covered = entry.id.kind() == Kind::DataRequest
                    && entry.triggered_at <= by.as_of
                    && !entry.state.is_closed()
                    && (entry.marks.iter().any(|mark| by.marks.contains(mark)) || by.is_known_by(&entry.contacts));
                if covered {
                    self.close(shop, &entry.id, State::NothingHeld, &Closing::because("customer_erased"), now).await?;
                }
            }
            match next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// Goes on with an export. `None` when it begins again: an erasure of the customer that is older than the request came in
    /// between, so that it is made of what has come since; or another worker has ended the upload.
    async fn collect(
        &self,
        id: &RequestId,
        key: &ShopKey,
        job: Job,
        subject: &Subject,
        budget: &mut Budget,
        now: Timestamp,
    ) -> Result<Option<Outcome>, DataError> {
        let (shop, name) = (&subject.shop, &id.to_string());
        let expires = self.keep.exports(now);
        let row = &Item::new()
            .due(Due::Retention, shop, expires)
            .text("request", name)
            .text("subjects", subject.marks.join(" "))
            .text("contacts", subject.contacts.join(" "))
            .time(WRITTEN_AT, now)
            .time(ENDS_AT, expires)
            .expires(expires.plus_secs(ROW_STAYS_SECS));
        // From here on an erasure of this customer finds the export, finished or not. One that is over took the job.
        let resumed = job.writing.is_some();
        let announce = move |fence: Fence| async move {
            if self.table.get(&job_key(shop, id)).await?.is_none() {
                return Ok(Announced::Erased);
            }
            // The message came twice, or a worker was killed when it had the file done but for saying so.
            let stored = self.table.get(&Key::export(shop, name)).await?;
            let lasts = |stored: &Item| stored.get_time(ENDS_AT).is_some_and(|end| end > now);
            if let Some(stored) = stored.filter(|stored| stored.has(BYTES) && lasts(stored)) {
                return Ok(Announced::Finished(Finished::read(&stored)?));
            }
            let unfinished = Cond::Absent(BYTES).or(Cond::at_most(ENDS_AT, now.millis()));
            // What an earlier worker has announced and an erasure taken away is not gone on with.
            let only_if = if resumed { Cond::exists().and(unfinished) } else { unfinished };
            let put = Write::Put { key: Key::export(shop, name), item: row.clone(), only_if: Some(only_if) };
            match self.table.transact(vec![put, ledger::is_open(shop, id), fence.check()]).await {
                Ok(()) => Ok(Announced::Open),
                Err(StoreError::ConditionFailed { at: 0, .. }) if resumed => Ok(Announced::Erased),
                Err(StoreError::ConditionFailed { at: 0 | 1, .. }) => Err(DataError::Busy),
                Err(error) => Err(DataError::from(error)),
            }
        };
        let finished = match Fence::hold(&self.table, shop, announce).await? {
            Announced::Erased => return self.give_up(shop, id, now).await,
            Announced::Finished(finished) => finished,
            Announced::Open => match self.write_export(id, key, job, subject, row, budget, now).await {
                Ok(Written::Finished(finished)) => finished,
                Ok(Written::Ended(outcome)) => return Ok(outcome),
                // Another worker has completed the upload, or ended it when its own was complete, or has gone on with it from
                // where we did: what is in the bucket is not what we know of.
                Err(DataError::Bucket(code)) if export::BEGIN_AGAIN.contains(&code.as_str()) => return Ok(None),
                Err(error) => return Err(error),
            },
        };
        export::tidy(&self.objects, &Objects::export_key(shop, name)).await?;
        let Finished { bytes, expires, counts, hidden } = &finished;
        let (marks, reader) = (&subject.marks, &Actor::System("data_request"));
        let count = usize::try_from(counts.values().sum::<u64>()).unwrap_or(usize::MAX);
        let recorded = Fence::hold(&self.table, shop, move |fence| async move {
            if self.table.get(&Key::export(shop, name)).await?.is_none() {
                return Ok(false);
            }
            audit::record(&self.table, &fence, reader, "export.make", count, marks, now, &self.keep).await?;
            Ok::<_, DataError>(true)
        });
        if !recorded.await? {
            return self.give_up(shop, id, now).await;
        }
        let decision = hidden.then_some(LETTERS_HIDDEN);
        let closing = Closing { counts: Some(counts), export: Some((*bytes, *expires)), decision };
        self.close(shop, id, State::Done, &closing, now).await.map(Some)
    }

    /// Writes what is missing of an export that `row` announces, within the budget.
    #[expect(clippy::too_many_arguments, reason = "the second half of one function")]
    async fn write_export(
        &self,
        id: &RequestId,
        key: &ShopKey,
        mut job: Job,
        subject: &Subject,
        row: &Item,
        budget: &mut Budget,
        now: Timestamp,
    ) -> Result<Written, DataError> {
        let (shop, name) = (&subject.shop, &id.to_string());
        let expires = row.get_time(ENDS_AT).ok_or(StoreError::Malformed(ENDS_AT))?;
        let mut writer = match job.writing.take() {
            Some(writing) => Writer::wake(&self.objects, Objects::export_key(shop, name), writing).await?,
            // What an earlier try left stays until this one is complete: another worker may be about to say that it is.
            None => {
                (job.section, job.after, job.counts) = (None, None, BTreeMap::new());
                Writer::begin(&self.objects, id, subject, now, expires).await?
            }
        };
        let mut at = self.registry.position(job.section.as_deref()).unwrap_or(0);
        while let Some(section) = self.registry.sections().get(at) {
            if !budget.spend() {
                job.writing = Some(writer.sleep().await?);
                self.save(shop, key, id, &job, now).await?;
                if self.table.get(&Key::export(shop, name)).await?.is_none() {
                    return self.give_up(shop, id, now).await.map(Written::Ended);
                }
                let paused = self.pause(shop, key, id, &job, now).await?;
                return Ok(Written::Ended(Some(paused)));
            }
            let page = match section.export(subject, job.after.as_deref()).await {
                Err(DataError::LettersHidden) => {
                    job.hidden = job.hidden.saturating_add(1);
                    if job.hidden < HIDDEN_TRIES {
                        job.writing = Some(writer.sleep().await?);
                        self.save(shop, key, id, &job, now).await?;
                        return Err(DataError::LettersHidden);
                    }
                    // Better what is to be seen, and a word that it is not all, than nothing in time.
                    let subject = Subject { as_far_as_seen: true, ..subject.clone() };
                    section.export(&subject, job.after.as_deref()).await?
                }
                page => page?,
            };
            writer.page(section.name(), &page.records).await?;
            *job.counts.entry(section.name().to_owned()).or_default() += page.records.len() as u64;
            if page.next.is_none() {
                writer.end_section();
                at += 1;
            }
            job.after = page.next;
            job.section = self.registry.sections().get(at).map(|section| section.name().to_owned());
        }
        let (mut counts, hidden) = (job.counts, job.hidden >= HIDDEN_TRIES);
        counts.retain(|_, count| *count > 0);
        // Records of what was done about the customer are no data held on them when nothing else is.
        if counts.keys().all(|section| section == "requests") {
            // The row first: once another worker has finished a file, it is that worker's.
            match self.table.delete(&Key::export(shop, name), Some(Cond::Absent(BYTES))).await {
                Ok(_) => writer.drop_all().await?,
                Err(StoreError::ConditionFailed { .. }) => return Ok(Written::Ended(None)),
                Err(error) => return Err(error.into()),
            }
            let closing = Closing { decision: hidden.then_some(LETTERS_HIDDEN), ..Closing::default() };
            let closed = self.close(shop, id, State::NothingHeld, &closing, now).await?;
            return Ok(Written::Ended(Some(closed)));
        }
        let bytes = writer.finish(&counts).await?;
        let finished = Finished { bytes, expires, counts, hidden };
        // An erasure that came meanwhile took the row: then the file goes too.
        match self.table.put(&Key::export(shop, name), finished.onto(row.clone())?, Some(Cond::exists())).await {
            Ok(()) => Ok(Written::Finished(finished)),
            Err(StoreError::ConditionFailed { .. }) => self.give_up(shop, id, now).await.map(Written::Ended),
            Err(error) => Err(error.into()),
        }
    }

    /// An erasure came in between: whatever was written of the export goes. It has taken the job of a request that is no
    /// younger than it; any other begins again: `None`.
    async fn give_up(&self, shop: &ShopDomain, id: &RequestId, now: Timestamp) -> Result<Option<Outcome>, DataError> {
        let name = id.to_string();
        let entry = ledger::get(&self.table, shop, id).await?;
        // Not an erasure but another worker took the job: it has closed the request, and its file is handed out.
        if let Some(entry) = entry.as_ref().filter(|entry| entry.export_bytes.is_some())
            && self.table.get(&Key::export(shop, &name)).await?.is_some()
        {
            return Ok(Some(Outcome::Closed(entry.state)));
        }
        export::erase(&self.objects, &Objects::export_key(shop, &name)).await?;
        match entry {
            Some(entry) if entry.state.is_closed() => Ok(Some(Outcome::Closed(entry.state))),
            Some(_) if self.table.get(&job_key(shop, id)).await?.is_some() => Ok(None),
            _ => self.close(shop, id, State::NothingHeld, &Closing::because("customer_erased"), now).await.map(Some),
        }
    }

    /// Closes a request and forgets its job, in this order: a kill between the two leaves a job that the next worker, or
    /// the shop's erasure, removes.
    pub(crate) async fn close(
        &self,
        shop: &ShopDomain,
        id: &RequestId,
        state: State,
        closing: &Closing<'_>,
        now: Timestamp,
    ) -> Result<Outcome, DataError> {
        ledger::close(&self.table, shop, id, state, closing, now).await?;
        self.table.delete(&job_key(shop, id), None).await?;
        tracing::info!(%shop, request = %id, state = state.as_str(), decision = closing.decision, "privacy request closed");
        Ok(Outcome::Closed(state))
    }

    async fn pause(
        &self,
        shop: &ShopDomain,
        key: &ShopKey,
        id: &RequestId,
        job: &Job,
        now: Timestamp,
    ) -> Result<Outcome, DataError> {
        self.save(shop, key, id, job, now).await?;
        let entry = ledger::get(&self.table, shop, id).await?.ok_or(DataError::NotFound)?;
        self.send_again(shop, &entry, 0).await?;
        Ok(Outcome::Paused)
    }

    /// Sends the message of an open request again, without its body: all that is needed lies in the ledger and the job. It is
    /// seen after so many seconds, at most 900.
    pub(crate) async fn send_again(&self, shop: &ShopDomain, entry: &Entry, secs: i32) -> Result<(), DataError> {
        let envelope = Envelope {
            v: Version,
            source: Source::Https,
            shop: shop.clone(),
            topic: entry.topic.to_owned(),
            webhook_id: entry.webhook_id.clone(),
            event_id: None,
            api_version: None,
            name: None,
            triggered_at: Some(entry.triggered_at),
            received_at: entry.received_at,
            secret_generation: None,
            body: Body::Inline { inline: "{}".to_owned() },
        };
        self.queues.send_privacy(&envelope.to_json(), secs).await
    }

    async fn save(
        &self,
        shop: &ShopDomain,
        key: &ShopKey,
        id: &RequestId,
        job: &Job,
        now: Timestamp,
    ) -> Result<(), DataError> {
        // An erasure of the shop, or of the customer, may have taken the job: it must not come back.
        match self.table.put(&job_key(shop, id), seal(key, shop, id, job, now)?, Some(Cond::exists())).await {
            Ok(()) | Err(StoreError::ConditionFailed { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn seal(key: &ShopKey, shop: &ShopDomain, id: &RequestId, job: &Job, now: Timestamp) -> Result<Item, DataError> {
    let plain = serde_json::to_vec(job).map_err(|_| StoreError::Malformed(SEALED))?;
    Ok(Item::new().bytes(SEALED, key.seal(&job_key(shop, id), SEALED, &plain)?).time(WRITTEN_AT, now))
}

pub(crate) fn job_key(shop: &ShopDomain, id: &RequestId) -> Key {
    Key::custom(shop, JOB, &id.to_string())
}
