//! What goes wrong meanwhile: services that fail for seconds at a time, and processes that are killed in the middle of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use gatehouse_local::Local;
use gatehouse_local::aws::Fault;

/// How bad it gets.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// The longest time that a service fails.
    pub outage: Duration,
    /// About as long all is well between two outages.
    pub calm: Duration,
    /// About this time lies between two kills.
    pub kill: Duration,
    /// So many answers at least lie between two outages, and half as many between two kills: on a machine that has other
    /// things to do a storm lasts longer and is not worse.
    pub answers: u64,
}

/// What happened, by name.
#[derive(Clone, Default)]
pub struct Tally(Arc<Mutex<BTreeMap<String, u64>>>);

impl Tally {
    /// One more.
    pub fn count(&self, what: impl Into<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(what.into()).or_default() += 1;
    }

    /// So many more.
    pub fn add(&self, what: &str, more: u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(what.to_owned()).or_default() += more;
    }

    /// All counts.
    pub fn all(&self) -> BTreeMap<String, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One count.
    pub fn of(&self, what: &str) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(what).copied().unwrap_or(0)
    }
}

impl Weather {
    /// Lets services fail, one after the other and sometimes two at once, until it is dropped.
    pub async fn outages(self, local: &Local, mut rng: Rng, tally: &Tally, answered: &AtomicU64) {
        loop {
            let before = answered.load(Ordering::Relaxed);
            for _ in 0..rng.usize(1..=2) {
                let service = ["sqs", "dynamodb", "s3", "dynamodb", "sqs", "kms"][rng.usize(..6)];
                let time = self.outage.mul_f64(0.2 + 0.8 * rng.f64());
                let (name, fault) = match rng.u8(..6) {
                    0 => ("503", Fault::fail(service)),
                    1 => ("throttled", Fault::throttle(service)),
                    2 => ("connection dropped", Fault::hang_up(service)),
                    3 => ("answer lost (500)", Fault::lose_answer(service)),
                    4 => ("answer cut off", Fault::cut_answer(service)),
                    _ => ("slow", Fault::slow(service, Duration::from_millis(rng.u64(50..400)))),
                };
                tally.count(format!("outage: {service} {name}"));
                local.aws().fault(fault.lasting(time));
            }
            tokio::time::sleep(self.outage + self.calm.mul_f64(2.0 * rng.f64())).await;
            more(answered, before + self.answers).await;
        }
    }

    /// Kills a process now and then, until it is dropped: three workers for each take-in.
    pub async fn kills(self, local: &Local, mut rng: Rng, tally: &Tally, answered: &AtomicU64) {
        loop {
            let before = answered.load(Ordering::Relaxed);
            tokio::time::sleep(self.kill.mul_f64(2.0 * rng.f64())).await;
            more(answered, before + self.answers / 2).await;
            let name = if rng.u8(..4) == 0 { "webhook" } else { "worker" };
            if local.lambda().kill(name, |living| rng.usize(..living)) {
                tally.count(format!("killed: {name}"));
            }
        }
    }
}

/// Waits until so many are answered.
async fn more(answered: &AtomicU64, wanted: u64) {
    while answered.load(Ordering::Relaxed) < wanted {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
