//! The machine under arbitrary events: it must keep its promises to a driver that behaves, and do no harm with one that does not.

use gatehouse_life::{
    Answer, Event, Grant, Granted, Hand, Lease, Machine, Mode, Original, Outcome, Owner, Put, Record, Request, Spares,
    Stale, Status, Step, Tokens,
};
use gatehouse_shopify::Timestamp;
use proptest::prelude::*;

const T: Timestamp = Timestamp::from_secs(1_795_219_200);
const ME: Owner = Owner(1);
const OTHER: Owner = Owner(2);

fn owner() -> impl Strategy<Value = Owner> {
    prop_oneof![Just(ME), Just(OTHER)]
}

fn time(around: i64) -> impl Strategy<Value = Timestamp> {
    prop_oneof![
        9 => (-around..around).prop_map(|ms| T.plus_millis(ms)),
        1 => any::<i64>().prop_map(Timestamp::from_millis),
    ]
}

prop_compose! {
    fn record()(
        status in prop_oneof![4 => Just(Status::Installed), 1 => Just(Status::NeedsReauth), 1 => Just(Status::Uninstalled)],
        version in 0u64..4,
        lease in prop::option::of((owner(), time(100_000))),
        flags in any::<[bool; 3]>(),
        access_expires in prop::option::of(time(1_000_000)),
        refresh_expires in prop::option::of(time(1_000_000)),
        spares in 0u8..6,
        acquired_at in time(4_000_000),
        gone_at in prop::option::of(time(200_000)),
        scopes_at in prop::option::of(time(200_000)),
        written_by in prop::option::of(owner()),
        chain in prop::option::of(owner()),
    ) -> Record {
        Record {
            status,
            version,
            lease: lease.map(|(owner, until)| Lease { owner, until }),
            has_access: flags[0],
            access_expires,
            has_refresh: flags[1],
            refresh_expires,
            spares,
            has_original: flags[2],
            acquired_at,
            installed_at: acquired_at,
            gone_at,
            scopes_at,
            written_by,
            chain,
        }
    }
}

fn put() -> impl Strategy<Value = Put> {
    prop_oneof![Just(Put::Done), Just(Put::Conflict), Just(Put::Unknown)]
}

fn answer() -> impl Strategy<Value = Answer> {
    let granted = (prop::option::of(any::<u32>()), any::<bool>(), prop::option::of(any::<u32>())).prop_map(
        |(expires_in, has_refresh, refresh_expires_in)| {
            Answer::Granted(Granted { expires_in, has_refresh, refresh_expires_in })
        },
    );
    prop_oneof![
        3 => granted,
        1 => Just(Answer::Dead),
        1 => Just(Answer::HandRefused),
        1 => any::<u32>().prop_map(|after_millis| Answer::Busy { after_millis }),
        1 => Just(Answer::Lost),
        1 => Just(Answer::Paused),
        1 => Just(Answer::Operator),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Start),
        prop::option::of(record()).prop_map(Event::Read),
        Just(Event::ReadFailed),
        put().prop_map(Event::Lease),
        answer().prop_map(Event::Answer),
        Just(Event::KeyUnavailable),
        Just(Event::Undecryptable),
        put().prop_map(Event::Write),
        Just(Event::Released),
        Just(Event::Waited),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    let hand =
        prop_oneof![Just(Hand::Nothing), any::<bool>().prop_map(|force| Hand::IdToken { force }), Just(Hand::Code)];
    let stale = prop::option::of(prop_oneof![(0u64..4).prop_map(Stale::Refused), (0u64..4).prop_map(Stale::Old)]);
    (hand, stale, 0i64..40_000).prop_map(|(hand, stale, budget)| Request {
        owner: ME,
        deadline: T.plus_millis(budget),
        hand,
        mode: Mode::Expiring,
        stale,
    })
}

/// An event that answers the step, drawn from the given ones.
fn fitting(step: &Step, drawn: &Drawn) -> Event {
    match step {
        Step::Read => drawn.read.map_or(Event::ReadFailed, Event::Read),
        Step::TakeLease { .. } => Event::Lease(drawn.put),
        Step::Call { .. } => drawn.answer.map_or(Event::KeyUnavailable, Event::Answer),
        Step::Write(_) | Step::MarkNeedsReauth { .. } => Event::Write(drawn.put),
        Step::Release => Event::Released,
        Step::Wait { .. } => Event::Waited,
        Step::Done(_) => Event::Start,
    }
}

#[derive(Clone, Debug)]
struct Drawn {
    read: Option<Option<Record>>,
    put: Put,
    answer: Option<Answer>,
    millis: i64,
}

fn drawn() -> impl Strategy<Value = Drawn> {
    let read = prop::option::weighted(0.9, prop::option::weighted(0.9, record()));
    (read, put(), prop::option::weighted(0.9, answer()), 0i64..3_000).prop_map(|(read, put, answer, millis)| Drawn {
        read,
        put,
        answer,
        millis,
    })
}

/// What a driver that keeps books sees; panics when a promise is broken.
#[derive(Default)]
struct Books {
    read: Option<Record>,
    just_read: bool,
    written: Option<(u64, Option<Timestamp>)>,
    offered: Option<(u64, Option<Timestamp>)>,
}

impl Books {
    fn told(&mut self, event: &Event) {
        if let Event::Read(record) = event {
            self.read = *record;
        }
        if let Event::Write(Put::Done) = event
            && let Some(offered) = self.offered
        {
            self.written = Some(offered);
        }
        self.just_read = matches!(event, Event::Read(Some(record)) if record.lease.is_some_and(|l| l.owner == ME));
    }

    fn asked(&mut self, now: Timestamp, request: &Request, step: &Step) {
        match step {
            Step::Call { timeout_millis, grant } => {
                assert!(self.just_read, "a call without a second look under the lease");
                assert!((1_000..=10_000).contains(timeout_millis));
                if let Grant::Refresh(_) = grant {
                    assert!(self.read.is_some_and(|r| r.has_refresh || r.spares > 0));
                }
            }
            Step::Write(write) => {
                assert!(write.access_expires.is_some(), "stored as a token that does not expire");
                self.offered = Some((write.version + 1, write.access_expires));
            }
            Step::Wait { min_millis, max_millis } => {
                assert!(min_millis <= max_millis);
                assert!(now.plus_millis(i64::from(*max_millis)) <= request.deadline, "waits past the deadline");
            }
            Step::Done(Outcome::Use { version, tokens: Tokens::Read }) => {
                let record = self.read.expect("nothing was read");
                assert_eq!(record.version, *version);
                assert_eq!(record.status, Status::Installed);
                assert!(record.has_access);
                match record.access_expires {
                    Some(at) => assert!(at > now, "an expired token is used"),
                    None => assert!(!record.has_refresh, "unknown is not for ever"),
                }
                assert_ne!(request.stale, Some(Stale::Refused(*version)), "a refused token is used");
            }
            Step::Done(Outcome::Use { version, tokens: Tokens::Written }) => {
                let (written, expires) = self.written.expect("not stored");
                assert_eq!(written, *version);
                assert!(expires.is_some_and(|at| at > now), "an expired token is used");
            }
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// A driver that answers what it is asked, with anything: every run ends, and keeps the promises.
    #[test]
    fn any_answers(request in request(), draws in prop::collection::vec(drawn(), 1..40)) {
        let mut machine = Machine::new(request);
        let mut books = Books::default();
        let mut now = T;
        let mut event = Event::Start;
        let mut ended = false;
        for drawn in draws.iter().cycle().take(4_000) {
            books.told(&event);
            let step = machine.next(now, event);
            books.asked(now, &request, &step);
            if let Step::Done(_) = step {
                ended = true;
                break;
            }
            now = now.plus_millis(drawn.millis + 20);
            if let Step::Wait { min_millis, .. } = step {
                now = now.plus_millis(i64::from(min_millis));
            }
            event = fitting(&step, drawn);
        }
        prop_assert!(ended, "a run of at most 40 seconds, in steps of at least 20 ms, does not end");
    }

    /// A driver that says anything at any time: no panic, no token that is not stored or expired.
    #[test]
    fn any_events(request in request(), events in prop::collection::vec((event(), -2_000i64..2_000), 1..80)) {
        let mut machine = Machine::new(request);
        let mut now = T;
        let mut read = None;
        for (event, millis) in events {
            now = now.plus_millis(millis);
            if let Event::Read(record) = event {
                read = read.max(record.map(|r| r.version));
            }
            if let Step::Done(Outcome::Use { tokens: Tokens::Read, .. }) = machine.next(now, event) {
                prop_assert!(read.is_some());
            }
        }
    }

    /// The most extreme clocks do not make it panic.
    #[test]
    fn any_clock(request in request(), events in prop::collection::vec((event(), any::<i64>()), 1..40)) {
        let mut machine = Machine::new(request);
        for (event, now) in events {
            let _ = machine.next(Timestamp::from_millis(now), event);
        }
    }
}

/// An installation whose access token is dead and whose refresh token lives, under the given lease.
fn old_pair(lease: Option<Lease>) -> Record {
    Record {
        status: Status::Installed,
        version: 4,
        lease,
        has_access: true,
        access_expires: Some(T),
        has_refresh: true,
        refresh_expires: Some(T.plus_secs(1_000_000)),
        chain: Some(OTHER),
        ..Record::EMPTY
    }
}

/// Brings a run to the moment after its second look; `found` is what lies there before the lease.
fn up_to_call(found: Record) -> (Machine, Record, Step) {
    let request =
        Request { owner: ME, deadline: T.plus_secs(60), hand: Hand::Nothing, mode: Mode::Expiring, stale: None };
    let mut machine = Machine::new(request);
    assert_eq!(machine.next(T, Event::Start), Step::Read);
    let Step::TakeLease { until, .. } = machine.next(T, Event::Read(Some(found))) else { panic!("no lease") };
    assert_eq!(machine.next(T, Event::Lease(Put::Done)), Step::Read);
    let held = Record { lease: Some(Lease { owner: ME, until }), ..found };
    let step = machine.next(T, Event::Read(Some(held)));
    (machine, held, step)
}

const GRANTED: Granted = Granted { expires_in: Some(3600), has_refresh: true, refresh_expires_in: Some(7_776_000) };

/// A renewal that was not acknowledged may not have been made: what counts is the lease in the item.
#[test]
fn an_unacknowledged_renewal_is_not_believed() {
    let (mut machine, held, step) = up_to_call(old_pair(None));
    assert!(matches!(step, Step::Call { .. }));
    let late = T.plus_secs(10);
    assert!(matches!(machine.next(late, Event::Answer(Answer::Lost)), Step::Wait { .. }));
    assert_eq!(machine.next(late, Event::Waited), Step::Read);
    assert!(matches!(machine.next(late, Event::Read(Some(held))), Step::TakeLease { .. }), "2 seconds are too few");
    assert_eq!(machine.next(late, Event::Lease(Put::Unknown)), Step::Read);
    let step = machine.next(late, Event::Read(Some(held)));
    assert!(matches!(step, Step::TakeLease { .. }), "the old lease still stands there: {step:?}");
}

/// Two refreshes of one token, order unknown: both refresh tokens are kept, whether the line has a name or not.
#[test]
fn of_two_answers_none_is_thrown_away() {
    for chain in [Some(OTHER), None] {
        let (mut machine, held, _) = up_to_call(Record { chain, ..old_pair(None) });
        let step = machine.next(T, Event::Answer(Answer::Granted(GRANTED)));
        assert!(matches!(step, Step::Write(write) if write.version == 4 && write.holding));
        assert_eq!(machine.next(T, Event::Write(Put::Conflict)), Step::Read);
        let others = Record { version: 5, lease: None, spares: 1, chain: Some(OTHER), written_by: Some(OTHER), ..held };
        let step = machine.next(T, Event::Read(Some(others)));
        let Step::Write(write) = step else { panic!("{chain:?}: {step:?}") };
        assert_eq!((write.version, write.holding, write.spares), (5, false, Spares::Merge));
        // But what was refreshed twice since is ahead of ours.
        let (mut machine, held, _) = up_to_call(Record { chain, ..old_pair(None) });
        machine.next(T, Event::Answer(Answer::Granted(GRANTED)));
        machine.next(T, Event::Write(Put::Conflict));
        let fresh = Record { version: 6, access_expires: Some(T.plus_secs(3600)), spares: 1, ..held };
        assert_eq!(machine.next(T, Event::Read(Some(fresh))), Step::Release);
        let done = machine.next(T, Event::Released);
        assert_eq!(done, Step::Done(Outcome::Use { version: 6, tokens: Tokens::Read }));
    }
}

/// A migration can be asked again, so it is, until its refresh token is there.
#[test]
fn a_migration_without_its_refresh_token_is_asked_again() {
    let original = Record { access_expires: None, has_refresh: false, refresh_expires: None, ..old_pair(None) };
    let (mut machine, held, step) = up_to_call(original);
    assert!(matches!(step, Step::Call { grant: Grant::Migrate, .. }));
    let without = Granted { has_refresh: false, refresh_expires_in: None, ..GRANTED };
    assert!(matches!(machine.next(T, Event::Answer(Answer::Granted(without))), Step::Wait { .. }));
    assert_eq!(machine.next(T, Event::Waited), Step::Read);
    assert!(matches!(machine.next(T, Event::Read(Some(held))), Step::Call { grant: Grant::Migrate, .. }));
    let Step::Write(write) = machine.next(T, Event::Answer(Answer::Granted(GRANTED))) else { panic!("no write") };
    assert_eq!(write.original, Original::Keep, "until the first refresh");
}

/// Brings a run with this in hand to the moment when Shopify has been asked; `found` lies there before the lease.
fn up_to_grant(hand: Hand, found: Record) -> (Machine, Record) {
    let request = Request { owner: ME, deadline: T.plus_secs(60), hand, mode: Mode::Expiring, stale: None };
    let mut machine = Machine::new(request);
    assert_eq!(machine.next(T, Event::Start), Step::Read);
    let Step::TakeLease { until, .. } = machine.next(T, Event::Read(Some(found))) else { panic!("no lease") };
    assert_eq!(machine.next(T, Event::Lease(Put::Done)), Step::Read);
    let held = Record { lease: Some(Lease { owner: ME, until }), ..found };
    assert!(matches!(machine.next(T, Event::Read(Some(held))), Step::Call { .. }));
    (machine, held)
}

const EXCHANGE: Hand = Hand::IdToken { force: true };

/// The app is removed while its first tokens, or new ones, are asked for, and the news is there before they are stored: at what
/// time exactly the removal was, nobody can tell by two clocks.
#[test]
fn what_a_removal_may_have_killed_is_not_stored() {
    let removed = Record { status: Status::Uninstalled, version: 7, gone_at: Some(T.plus_secs(-900)), ..Record::EMPTY };
    let cases = [
        // Before the write: the first installation, and one over the remains of another. The version stays.
        (Record::EMPTY, Record { gone_at: Some(T.plus_secs(1)), ..Record::EMPTY }),
        (removed, Record { gone_at: Some(T.plus_secs(1)), ..removed }),
        (removed, Record { gone_at: Some(T.plus_secs(-59)), ..removed }),
        // Tokens were there, and the news has taken them away.
        (old_pair(None), Record { version: 5, gone_at: Some(T.plus_secs(1)), ..removed }),
        (old_pair(None), Record { version: 5, gone_at: None, ..removed }),
    ];
    for (before, after) in cases {
        for hand in [EXCHANGE, Hand::Code] {
            let (mut machine, held) = up_to_grant(hand, before);
            let step = machine.next(T, Event::Answer(Answer::Granted(GRANTED)));
            let Step::Write(write) = step else { panic!("{step:?}") };
            assert_eq!(write.gone_at, before.gone_at, "no news since");
            assert_eq!(machine.next(T, Event::Write(Put::Conflict)), Step::Read);
            let step = machine.next(T, Event::Read(Some(Record { lease: held.lease, ..after })));
            assert!(matches!(step, Step::TakeLease { .. } | Step::Call { .. }), "{before:?} {hand:?}: {step:?}");
            // Shopify is asked again, and says that the app is gone.
            assert_eq!(machine.next(T, Event::Lease(Put::Done)), Step::Read);
            let step = machine.next(T, Event::Read(Some(Record { lease: held.lease, ..after })));
            assert!(matches!(step, Step::Call { grant: Grant::Exchange | Grant::Code, .. }), "{step:?}");
            assert_eq!(machine.next(T, Event::Answer(Answer::HandRefused)), Step::Release);
            let done = machine.next(T, Event::Released);
            assert_eq!(done, Step::Done(Outcome::Fail(gatehouse_life::Failure::HandRefused)));
        }
    }
}

/// The news is old, or there are tokens that it has left standing: what was asked for after that is of the next installation.
#[test]
fn what_no_removal_can_have_killed_is_stored() {
    let removed = Record { status: Status::Uninstalled, version: 7, ..Record::EMPTY };
    let cases = [
        (Record::EMPTY, Record { gone_at: Some(T.plus_secs(-61)), ..Record::EMPTY }),
        (removed, Record { gone_at: Some(T.plus_secs(-61)), ..removed }),
        (old_pair(None), Record { version: 5, gone_at: Some(T.plus_secs(-61)), ..removed }),
        (old_pair(None), Record { gone_at: Some(T.plus_secs(-5)), ..old_pair(None) }),
    ];
    for (before, after) in cases {
        let (mut machine, held) = up_to_grant(EXCHANGE, before);
        machine.next(T, Event::Answer(Answer::Granted(GRANTED)));
        machine.next(T, Event::Write(Put::Conflict));
        let step = machine.next(T, Event::Read(Some(Record { lease: held.lease, ..after })));
        let Step::Write(write) = step else { panic!("{before:?}: {step:?}") };
        assert_eq!((write.version, write.gone_at), (after.version, after.gone_at));
    }
}
