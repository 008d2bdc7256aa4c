//! A smaller run of the simulator, and the proof that it finds what it is for.

use gatehouse_sim::{Fault, Promise, Report, Without, run, trace};

/// Any seed will do; a fixed one makes a failure the same for everybody.
const SEED: u64 = 20_261_121;

fn two_threads(schedules: u64, seed: u64, without: Option<Without>) -> Report {
    run(schedules, seed, without, 2, |_, _| {})
}

#[test]
fn no_shop_is_lost() {
    let report = two_threads(2_000, SEED, None);
    assert!(report.failing.is_empty(), "cargo sim -- --seed {} --schedules 1 --trace", report.failing[0].0);
    let stats = &report.stats;
    assert_eq!(stats.schedules, 2_000);
    // That nothing broke means something only if everything happened.
    for fault in [
        Fault::LostAnswer,
        Fault::LostRequest,
        Fault::ServerError,
        Fault::Throttled,
        Fault::SlowAnswer,
        Fault::DoneAfterTimeout,
        Fault::MissingField,
        Fault::StoreFailure,
        Fault::LostAcknowledgement,
        Fault::SlowStore,
        Fault::Kms,
        Fault::Death,
        Fault::Pause,
        Fault::LateWebhook,
        Fault::RepeatedWebhook,
        Fault::TimelessWebhook,
    ] {
        assert!(stats.faults(fault) > 10, "{fault:?} hardly happened");
    }
    for (what, count) in [
        ("refreshes", stats.rotations),
        ("exchanges", stats.exchanges),
        ("codes", stats.codes),
        ("migrations", stats.migrations),
        ("uninstalls", stats.uninstalls),
        ("reinstalls", stats.reinstalls),
        ("forgotten", stats.forgets),
        ("needs re-auth", stats.needs_reauth),
    ] {
        assert!(count > 50, "{what}: {count}");
    }
    assert!(stats.conflicts > 5, "writes that met another's: {}", stats.conflicts);
}

#[test]
fn a_seed_is_a_complete_description() {
    let whole = two_threads(300, SEED, None);
    let mut parts = run(100, SEED, None, 1, |_, _| {}).stats;
    parts.add(&run(200, SEED + 100, None, 3, |_, _| {}).stats);
    assert_eq!(whole.stats, parts);
    let (lines, report) = trace(SEED + 7, None);
    assert!(lines.len() > 10);
    assert_eq!(report.stats, run(1, SEED + 7, None, 1, |_, _| {}).stats);
}

/// Without the part of the protocol, the promise is broken within so many schedules; the first failing seed fails again alone,
/// and does not with the whole protocol.
fn is_missed(without: Without, promise: Promise, within: u64) {
    let report = two_threads(within, SEED, Some(without));
    let found = report.failing.iter().find(|(_, promises)| promises.contains(&promise));
    let Some((seed, promises)) = found else { panic!("{without:?} is not missed:\n{}", report.stats) };
    let (_, again) = trace(*seed, Some(without));
    assert_eq!(again.failing, [(*seed, promises.clone())]);
    assert!(run(1, *seed, None, 1, |_, _| {}).failing.is_empty());
}

#[test]
fn without_the_lease() {
    is_missed(Without::Lease, Promise::TwoAtOnce, 500);
}

#[test]
fn without_the_second_look() {
    is_missed(Without::SecondLook, Promise::NeedlessRefresh, 2_000);
}

#[test]
fn without_the_atomic_write() {
    is_missed(Without::AtomicWrite, Promise::ShopLost, 20_000);
}

#[test]
fn without_a_look_at_removals_that_became_known() {
    is_missed(Without::RemovalCheck, Promise::OutlivedRemoval, 20_000);
}
