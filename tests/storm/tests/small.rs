//! A small storm in the test command: the same as `cargo storm`, with fewer deliveries and shorter outages.

use std::time::Duration;

use gatehouse_storm::model::{Mistake, differences, expected, forgettable};
use gatehouse_storm::plan::Size;
use gatehouse_storm::weather::Weather;
use gatehouse_storm::{Storm, run};

#[tokio::test(flavor = "multi_thread")]
async fn a_small_storm_loses_nothing_and_a_mistake_would_show() {
    let storm = Storm {
        size: Size { deliveries: 400, shops: 12, largest: 1_200_000 },
        // Another one each time: `cargo storm -- --seed` tells one again.
        seed: u64::from(fastrand::u32(..)),
        weather: Weather {
            outage: Duration::from_millis(400),
            calm: Duration::from_millis(800),
            kill: Duration::from_millis(600),
            answers: 40,
        },
        retry_after: Duration::from_millis(700),
        lanes: 8,
        processes: 3,
        patience: Duration::from_secs(240),
    };
    let outcome = run(storm, |_| {}).await;
    let seed = storm.seed;
    assert_eq!(
        outcome.differences,
        Vec::<String>::new(),
        "--deliveries 400 --shops 12 --largest 1200000 --seed {seed}"
    );
    for what in ["sent: first", "sent: again", "refused with 401", "refused with 405", "refused with 400"] {
        assert!(outcome.counts.contains_key(what), "{what} with seed {seed}: {:?}", outcome.counts);
    }
    // There was weather: a service that failed, and a process that died.
    for what in ["outage: ", "killed: "] {
        assert!(outcome.counts.keys().any(|key| key.starts_with(what)), "{what}with seed {seed}: {:?}", outcome.counts);
    }
    // The comparison is not blind: a model with a mistake in it does not fit.
    let free = forgettable(&outcome.plan);
    for mistake in [Mistake::LastArrivalWins, Mistake::NoTombstones, Mistake::OneIsLost] {
        let wrong = expected(&outcome.plan, Some(mistake));
        assert_ne!(differences(&wrong, &outcome.seen, &free), Vec::<String>::new(), "{mistake:?} with seed {seed}");
    }
}
