//! The case files `refresh_policy` and `session_storage`, as far as they are about decisions. What needs a real store (a
//! round trip, ciphertext, a query by shop) is run by the store's own tests over the same files, chosen by `op`.

mod policy;

use gatehouse_life::{
    Answer, Event, Failure, Grant, Granted, Hand, Lease, Machine, Mode, Original, Outcome, Owner, Put, Record, Refresh,
    Request, Source, Spares, Status, Step, Tokens, is_active,
};
use gatehouse_shopify::token::{self, Class, Fault};
use gatehouse_shopify::{Scopes, Timestamp};
use serde_json::{Map, Value, json};

const NOW: Timestamp = Timestamp::from_secs(1_795_219_200);
const UNREADABLE: &str = "not-valid-encrypted-payload";
const DAY: i64 = 86_400;

fn cases(text: &str) -> Vec<Value> {
    let file: Value = serde_json::from_str(text).expect("the case file is JSON");
    let cases = file["cases"].as_array().expect("a list of cases").clone();
    assert_eq!(file["count"].as_u64(), Some(cases.len() as u64), "the file says how many cases it has");
    cases
}

fn object<'a>(case: &'a Value, name: &str) -> &'a Map<String, Value> {
    case[name].as_object().unwrap_or_else(|| panic!("{}: {name} is an object", case["id"]))
}

/// The whole world of one case: an item, its tokens, a clock, and Shopify's answers.
struct House {
    now: Timestamp,
    record: Option<Record>,
    access: Option<String>,
    refresh: Option<String>,
    spares: Vec<String>,
    /// Shown under the lease.
    inside_lock: Option<Value>,
    answer: Option<Value>,
    calls: Vec<(Grant, Option<String>)>,
    writes: u32,
    /// The process dies when Shopify has answered.
    dies_with_the_answer: bool,
}

/// What came of one run.
#[derive(Debug, PartialEq)]
enum Ended {
    Token(String),
    NeedsReauth,
    Failed(Failure),
    Died,
}

impl House {
    fn new(stored: &Value) -> Self {
        let mut house = Self {
            now: NOW,
            record: None,
            access: None,
            refresh: None,
            spares: Vec::new(),
            inside_lock: None,
            answer: None,
            calls: Vec::new(),
            writes: 0,
            dies_with_the_answer: false,
        };
        let mut record = Record { status: Status::Installed, version: 1, chain: Some(Owner(9)), ..Record::EMPTY };
        for (name, value) in stored.as_object().expect("stored is an object") {
            house.set(&mut record, name, value);
        }
        house.record = Some(record);
        house
    }

    fn set(&mut self, record: &mut Record, name: &str, value: &Value) {
        let text = value.as_str().map(str::to_owned);
        let at = value.as_f64().map(|secs| {
            #[expect(clippy::cast_possible_truncation, reason = "seconds of a few months, in milliseconds")]
            let millis = (secs * 1000.0) as i64;
            NOW.plus_millis(millis)
        });
        match name {
            "access_token" => (record.has_access, self.access) = (text.is_some(), text),
            "refresh_token" => (record.has_refresh, self.refresh) = (text.is_some(), text),
            "expires_in" => record.access_expires = at,
            "refresh_expires_in" => record.refresh_expires = at,
            other => panic!("unknown field {other} of a stored installation"),
        }
    }

    fn answer(&self, grant: Grant) -> Answer {
        let Some(answer) = &self.answer else {
            return Answer::Granted(Granted {
                expires_in: Some(3600),
                has_refresh: true,
                refresh_expires_in: Some(7_776_000),
            });
        };
        let grant = match grant {
            Grant::Refresh(_) => token::Grant::Refresh,
            Grant::Migrate => token::Grant::Migrate,
            // What is in hand is good: only the stored token's answer is the case's.
            Grant::Exchange | Grant::Code => {
                return Answer::Granted(Granted {
                    expires_in: Some(3600),
                    has_refresh: true,
                    refresh_expires_in: Some(7_776_000),
                });
            }
        };
        for name in answer.as_object().expect("an answer is an object").keys() {
            assert!(["status", "body", "headers"].contains(&name.as_str()), "unknown field {name} of an answer");
        }
        let status = u16::try_from(answer["status"].as_u64().expect("a status")).expect("an HTTP status");
        let retry_after = answer["headers"]["Retry-After"].as_str();
        let body = if answer["body"].is_null() { String::new() } else { answer["body"].to_string() };
        match token::parse_answer(grant, status, retry_after, body.as_bytes()) {
            Ok(token::Tokens::Offline(tokens)) => Answer::Granted(Granted {
                expires_in: tokens.access_secs(),
                has_refresh: tokens.refresh().is_some(),
                refresh_expires_in: tokens.refresh_secs(),
            }),
            Ok(token::Tokens::Online(_)) => panic!("an online token is no answer to {grant:?}"),
            Err(error) => match (error.class(), &error.fault) {
                (_, Fault::MigrationRefused) | (Class::NeedsReauth, _) => Answer::Dead,
                (Class::FreshIdToken | Class::Restart, _) => Answer::HandRefused,
                // Not documented for a refresh; a library's test knows it: the caller's own proof is asked for again.
                (_, Fault::Refused { error: Some(word), .. }) if &**word == "invalid_subject_token" => {
                    Answer::HandRefused
                }
                (_, Fault::Throttled { retry_after }) => Answer::Busy {
                    after_millis: retry_after
                        .map_or(1000, |after| u32::try_from(after.as_millis()).unwrap_or(u32::MAX)),
                },
                (Class::Retry { .. }, _) => Answer::Lost,
                (Class::Later, _) => Answer::Paused,
                (Class::Operator, _) => Answer::Operator,
            },
        }
    }

    fn run(&mut self, owner: Owner, hand: Hand, mode: Mode) -> Ended {
        let deadline = self.now.plus_secs(25);
        let mut machine = Machine::new(Request { owner, deadline, hand, mode, stale: None });
        let mut event = Event::Start;
        let mut read_tokens = (None, None, Vec::new());
        let mut presented: Option<String> = None;
        for _ in 0..500 {
            let step = machine.next(self.now, event);
            self.now = self.now.plus_millis(5);
            event = match step {
                Step::Read => {
                    read_tokens = (self.access.clone(), self.refresh.clone(), self.spares.clone());
                    Event::Read(self.record)
                }
                Step::TakeLease { until, over, create } => {
                    let free = self.record.is_none_or(|r| r.lease.is_none() || r.lease == over);
                    if !free || (self.record.is_none() && !create) {
                        Event::Lease(Put::Conflict)
                    } else {
                        let mut record = self.record.unwrap_or(Record::EMPTY);
                        record.lease = Some(Lease { owner, until });
                        if let Some(inside) = self.inside_lock.take() {
                            for (name, value) in inside.as_object().expect("inside_lock is an object") {
                                self.set(&mut record, name, value);
                            }
                            record.version += 1;
                        }
                        self.record = Some(record);
                        Event::Lease(Put::Done)
                    }
                }
                Step::Call { grant, .. } => {
                    presented = match grant {
                        Grant::Refresh(Source::Current) => read_tokens.1.clone(),
                        Grant::Refresh(Source::Spare(place)) => read_tokens.2.get(usize::from(place)).cloned(),
                        Grant::Migrate => read_tokens.0.clone(),
                        Grant::Exchange | Grant::Code => None,
                    };
                    if presented.as_deref() == Some(UNREADABLE) {
                        Event::Undecryptable
                    } else {
                        self.calls.push((grant, presented.clone()));
                        if self.dies_with_the_answer {
                            return Ended::Died;
                        }
                        Event::Answer(self.answer(grant))
                    }
                }
                Step::Write(write) => {
                    let stored = self.record.unwrap_or(Record::EMPTY);
                    let mine = stored.lease.is_some_and(|lease| lease.owner == owner);
                    if stored.version != write.version || (write.holding && !mine) {
                        Event::Write(Put::Conflict)
                    } else {
                        let n = self.calls.len();
                        self.writes += 1;
                        self.record = Some(write.after(self.record.as_ref()));
                        self.access = Some(format!("new-access-{n}"));
                        self.spares = match write.spares {
                            Spares::Clear => Vec::new(),
                            Spares::Presented => presented.iter().cloned().collect(),
                            Spares::Merge => self.refresh.iter().chain(&self.spares).take(3).cloned().collect(),
                        };
                        self.refresh = match write.refresh {
                            Refresh::Store { .. } => Some(format!("new-refresh-{n}")),
                            Refresh::KeepSource { .. } => presented.clone(),
                            Refresh::Clear => None,
                        };
                        assert!(write.original == Original::Drop || matches!(self.calls[n - 1].0, Grant::Migrate));
                        Event::Write(Put::Done)
                    }
                }
                Step::MarkNeedsReauth { version } => match &mut self.record {
                    Some(r) if r.version == version && r.lease.is_some_and(|lease| lease.owner == owner) => {
                        r.status = Status::NeedsReauth;
                        r.lease = None;
                        Event::Write(Put::Done)
                    }
                    _ => Event::Write(Put::Conflict),
                },
                Step::Release => {
                    if let Some(r) = &mut self.record
                        && r.lease.is_some_and(|lease| lease.owner == owner)
                    {
                        r.lease = None;
                    }
                    Event::Released
                }
                Step::Wait { min_millis, max_millis } => {
                    self.now = self.now.plus_millis(i64::from(u32::midpoint(min_millis, max_millis)));
                    Event::Waited
                }
                Step::Done(Outcome::Use { tokens, .. }) => {
                    let token = match tokens {
                        Tokens::Read => read_tokens.0,
                        Tokens::Written => self.access.clone(),
                    };
                    return Ended::Token(token.expect("a token to use"));
                }
                Step::Done(Outcome::NeedsReauth) => return Ended::NeedsReauth,
                Step::Done(Outcome::Fail(failure)) => return Ended::Failed(failure),
            };
        }
        panic!("the run does not end");
    }
}

/// The run that a case of `refresh_policy` describes.
fn refresh_policy(case: &Value) -> Result<(), String> {
    let input = object(case, "input");
    let mut house = House::new(&input["stored"]);
    let mut mode = Mode::Expiring;
    let mut crash = false;
    let mut callers = 1;
    for (name, value) in input {
        match (name.as_str(), value) {
            ("stored", _) => {}
            ("feature", Value::Bool(on)) => mode = if *on { Mode::Expiring } else { Mode::AsStored },
            ("distribution", Value::String(kind)) => match kind.as_str() {
                "single_merchant" => mode = Mode::AsStored,
                "app_store" => mode = Mode::Expiring,
                other => panic!("unknown distribution {other}"),
            },
            ("inside_lock", value) => house.inside_lock = Some(value.clone()),
            ("answer", value) => house.answer = Some(value.clone()),
            ("parallel", Value::Number(many)) => callers = many.as_u64().expect("how many"),
            ("first", Value::String(what)) => {
                assert_eq!(what, "killed after Shopify answered, before the store was written");
                crash = true;
            }
            // Every caller is asked the same.
            ("caller", Value::String(_)) => {}
            (other, value) => panic!("{}: unknown input {other}: {value}", case["id"]),
        }
    }
    let stored = (house.access.clone(), house.refresh.clone());
    // What AsStored means for an expired token is that its expiry is not believed.
    if mode == Mode::AsStored {
        let first = house.run(Owner(1), Hand::Nothing, mode);
        return judge(case, &mut house, &stored, &first, 0);
    }
    let mut calls_before = 0;
    if crash {
        house.dies_with_the_answer = true;
        assert_eq!(house.run(Owner(1), Hand::Nothing, mode), Ended::Died);
        house.dies_with_the_answer = false;
        calls_before = house.calls.len();
    }
    let ended = house.run(Owner(2), Hand::Nothing, mode);
    // The one that died is the first. Every interleaving is the simulator's; here the others come when the first is done.
    for n in 1..callers.saturating_sub(u64::from(crash)) {
        let other = house.run(Owner(2 + u128::from(n)), Hand::Nothing, mode);
        if other != ended {
            return Err(format!("{}: one caller ended {ended:?}, another {other:?}", case["id"]));
        }
    }
    judge(case, &mut house, &stored, &ended, calls_before)
}

fn judge(
    case: &Value,
    house: &mut House,
    stored: &(Option<String>, Option<String>),
    ended: &Ended,
    calls_before: usize,
) -> Result<(), String> {
    let calls = house.calls[calls_before..].to_vec();
    let refreshed = calls.iter().any(|(grant, _)| matches!(grant, Grant::Refresh(_)));
    let kept = (&house.access, &house.refresh) == (&stored.0, &stored.1);
    let written = house.record.is_some_and(|r| r.status == Status::Installed) && house.writes == 1;
    let mut wrong = Vec::new();
    for (name, value) in object(case, "expect") {
        let holds = match (name.as_str(), value) {
            ("refresh", Value::Bool(wanted)) => refreshed == *wanted,
            ("token_used", Value::String(token)) => *ended == Ended::Token(token.clone()),
            ("stored_after", Value::String(what)) if what == "new pair" => {
                written
                    && house.access.as_deref() == Some("new-access-1")
                    && house.refresh.as_deref() == Some("new-refresh-1")
            }
            // The key is the driver's, no decision touches it: what can be seen here is that it is the same installation.
            ("id_and_shop_unchanged", Value::Bool(true)) => house.record.is_some_and(|r| r.chain == Some(Owner(9))),
            ("migrate", Value::String(_)) => calls.first().is_some_and(|(grant, _)| *grant == Grant::Migrate),
            ("request_sent", Value::Bool(wanted)) => calls.is_empty() != *wanted,
            ("requests" | "refreshes" | "upstream_calls", Value::Number(wanted)) => {
                Some(calls.len() as u64) == wanted.as_u64()
            }
            ("result", Value::String(result)) => match result.as_str() {
                "needs_reauth" => {
                    *ended == Ended::NeedsReauth && house.record.is_some_and(|r| r.status == Status::NeedsReauth)
                }
                "error" => matches!(ended, Ended::Failed(_)),
                "new pair stored" => written && matches!(ended, Ended::Token(_)),
                "invalid session: bounce or 401 + retry header" => {
                    *ended == Ended::Failed(Failure::HandRefused) && kept
                }
                other => panic!("unknown result {other}"),
            },
            ("reason", Value::String(reason)) => {
                matches!(ended, Ended::Failed(failure) if failure.code() == reason.as_str())
            }
            ("stored_value_kept" | "stored_pair_kept", Value::Bool(wanted)) => kept == *wanted,
            ("second_uses_refresh_token", Value::String(token)) => {
                calls.iter().all(|(_, presented)| presented.as_ref() == Some(token)) && !calls.is_empty()
            }
            // The lease's 15 seconds went by on the second caller's clock, and not more than a few.
            ("lock_released_by", Value::String(what)) if what == "expiry of the lease" => {
                (15_000..20_000).contains(&house.now.millis_since(NOW))
            }
            // 5xx is retried; then the caller hears of it and may come again.
            ("status", Value::Number(status)) => {
                status.as_u64() == Some(500) && matches!(ended, Ended::Failed(f) if f.is_retryable()) && calls.len() > 1
            }
            ("webhook", Value::String(what)) if what == "handled without an Admin client" => {
                *ended == Ended::NeedsReauth
            }
            // A webhook's answer does not depend on any token: nothing to decide here.
            ("status_of_webhook", Value::Number(_)) => true,
            ("admin_load", Value::String(what)) if what == "token exchange with the session token in hand" => {
                let before = house.calls.len();
                let next = house.run(Owner(3), Hand::IdToken { force: false }, Mode::Expiring);
                let only_exchange = house.calls[before..].iter().all(|(grant, _)| *grant == Grant::Exchange);
                only_exchange && house.calls.len() == before + 1 && matches!(next, Ended::Token(_))
            }
            (other, value) => panic!("{}: unknown expectation {other}: {value}", case["id"]),
        };
        if !holds {
            wrong.push(format!("{name}: {value}"));
        }
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(format!("{} ({}): not {}; ended {ended:?}, calls {calls:?}", case["id"], case["title"], wrong.join(", ")))
    }
}

#[derive(PartialEq, Eq)]
enum Checked {
    Here,
    ByTheStore,
}

fn session_storage(case: &Value) -> Result<Checked, String> {
    let input = object(case, "input");
    let op = input["op"].as_str().expect("an op");
    let expect = &case["expect"];
    let holds = match op {
        "roundtrip" | "load" | "find_by_shop" | "raw_read" | "swap_ciphertext" | "flip_bit" | "delete"
        | "delete_many" => {
            return Ok(Checked::ByTheStore);
        }
        // One refresh writes access token, refresh token and expiries once.
        "store" => {
            let stored =
                json!({"access_token": "old", "refresh_token": "r1", "expires_in": -1, "refresh_expires_in": DAY});
            let mut house = House::new(&stored);
            let ended = house.run(Owner(1), Hand::Nothing, Mode::Expiring);
            *expect == json!({"writes": house.writes, "atomic": true})
                && house.access.as_deref() == Some("new-access-1")
                && house.refresh.as_deref() == Some("new-refresh-1")
                && ended == Ended::Token("new-access-1".into())
        }
        // Two have read the same version: the second's write is refused, and it reads before it does anything else.
        "two writers" => {
            let versions: Vec<u64> =
                input["versions"].as_array().expect("a list").iter().map(|v| v.as_u64().expect("a number")).collect();
            assert!(versions.iter().all(|v| *v == versions[0]), "two writers of one version");
            let request = Request {
                owner: Owner(1),
                deadline: NOW.plus_secs(20),
                hand: Hand::Nothing,
                mode: Mode::Expiring,
                stale: None,
            };
            let mut machine = Machine::new(request);
            let record = Record {
                status: Status::Installed,
                version: versions[0],
                has_access: true,
                has_refresh: true,
                access_expires: Some(NOW),
                ..Record::EMPTY
            };
            assert_eq!(machine.next(NOW, Event::Start), Step::Read);
            let Step::TakeLease { until, .. } = machine.next(NOW, Event::Read(Some(record))) else {
                panic!("no lease")
            };
            assert_eq!(machine.next(NOW, Event::Lease(Put::Done)), Step::Read);
            let held = Record { lease: Some(Lease { owner: Owner(1), until }), ..record };
            assert!(matches!(machine.next(NOW, Event::Read(Some(held))), Step::Call { .. }));
            let granted = Granted { expires_in: Some(3600), has_refresh: true, refresh_expires_in: None };
            let Step::Write(write) = machine.next(NOW, Event::Answer(Answer::Granted(granted))) else {
                panic!("no write")
            };
            assert_eq!(write.version, versions[1], "the write is conditional on the version that was read");
            let then = machine.next(NOW, Event::Write(Put::Conflict));
            expect["second"] == "conflict, re-read" && then == Step::Read
        }
        "is_active" => {
            let session = &input["session"];
            let record = Record {
                status: Status::Installed,
                version: 1,
                has_access: session["access_token"].is_string(),
                access_expires: session["expires"].as_str().and_then(Timestamp::parse_rfc3339),
                ..Record::EMPTY
            };
            let scopes = |value: &Value| Scopes::parse(value.as_str().expect("scopes are text"));
            let cover = scopes(&session["scope"]).covers(&scopes(&input["wanted_scopes"]));
            expect["active"] == is_active(Some(&record), cover, NOW)
        }
        other => panic!("{}: unknown op {other}", case["id"]),
    };
    if holds { Ok(Checked::Here) } else { Err(format!("{} ({})", case["id"], case["title"])) }
}

/// Whether a case is decided otherwise, and if it is, that it really comes out otherwise.
fn check<T>(case: &Value, outcome: Result<T, String>) -> Result<Option<T>, String> {
    let id = case["id"].as_str().expect("an id");
    if !policy::DECIDED_OTHERWISE.iter().any(|(listed, _)| *listed == id) {
        return outcome.map(Some);
    }
    assert!(case["level"] == "policy", "{id}: only a policy may be decided otherwise");
    match outcome {
        Ok(_) => Err(format!("{id} holds: take it off the list of cases decided otherwise")),
        Err(_) => Ok(None),
    }
}

#[test]
fn refresh_policy_cases() {
    let cases = cases(include_str!("../../../tests/cases/refresh_policy.json"));
    let wrong: Vec<String> = cases.iter().filter_map(|case| check(case, refresh_policy(case)).err()).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn session_storage_cases_that_are_decisions() {
    let cases = cases(include_str!("../../../tests/cases/session_storage.json"));
    let mut here = 0;
    let mut wrong = Vec::new();
    for case in &cases {
        match check(case, session_storage(case)) {
            Ok(checked) => here += usize::from(checked == Some(Checked::Here)),
            Err(what) => wrong.push(what),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(here >= 4, "the decisions of this file are checked here");
}
