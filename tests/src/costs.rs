//! What a piece of work takes of AWS, in the units that AWS charges by. `tests/tests/e2e/costs.rs` counts each of them through the
//! real functions, and `tests/tests/template/cost.rs` prices them for docs/COST.md: none of the three can change alone.

/// One piece of work of a process that has done the same before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Write request units of the table and its index: one for each KB of an item, twice as many in a transaction, where a
    /// check counts as a write, and two for a row of the index that moves.
    pub writes: u32,
    /// Read request units of the table: one for each 4 KB, read consistently.
    pub reads: u32,
    /// Calls of KMS.
    pub kms: u32,
    /// Bytes of the functions' own log lines, with what CloudWatch adds to each ([`EVENT`]). Identifiers and times differ from
    /// one run to the next, so this is right to the twentieth part.
    pub logged: u32,
}

/// What CloudWatch adds to each line, in bytes
/// (<https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutLogEvents.html>).
pub const EVENT: u32 = 26;

/// `customers/update` of a mirrored customer with e-mail address and phone number: taken in, applied.
pub const CUSTOMER: Work = Work { writes: 16, reads: 6, kms: 0, logged: 1_870 };
/// `orders/create` of an order that has an owner and an e-mail address: taken in, applied.
pub const ORDER: Work = Work { writes: 14, reads: 5, kms: 0, logged: 1_850 };
/// `GET /v1/customers` with an ID token, and 25 customers on the page.
pub const PAGE: Work = Work { writes: 4, reads: 6, kms: 0, logged: 650 };
/// The keeper's renewal of one shop's tokens. What it costs to find the shop is the run's.
pub const RENEWAL: Work = Work { writes: 4, reads: 3, kms: 1, logged: 770 };
/// A shop that has nothing but its installation and its key for personal data: bytes of both items, of their rows of the
/// index, and what DynamoDB adds to each of the four.
pub const STORED: u32 = 2_000;
