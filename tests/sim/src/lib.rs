//! The token simulator: many processes drive `gatehouse-life` through random schedules, against strict models of Shopify, of the
//! installation's item and of everything that fails.
//!
//! A schedule is described by its seed alone. It must never: depend on a clock, on the order of threads, or on what ran before
//! it.

mod report;
mod shopify;
mod store;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

pub use report::{Fault, Promise, Report, Stats};
pub use store::Without;

/// How many schedules a thread takes at a time.
const CHUNK: u64 = 500;

/// Runs the schedules of the seeds `seed`, `seed + 1`, … and calls `progress` with the number of schedules done since its last
/// call and of those, how many broke a promise.
pub fn run(
    schedules: u64,
    seed: u64,
    without: Option<Without>,
    threads: usize,
    progress: impl Fn(u64, u64) + Sync,
) -> Report {
    let next = AtomicU64::new(0);
    let total = Mutex::new(Report::default());
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                let mut world = world::World::new(without, false);
                let mut failing = Vec::new();
                loop {
                    let first = next.fetch_add(CHUNK, Ordering::Relaxed);
                    if first >= schedules {
                        break;
                    }
                    let last = schedules.min(first + CHUNK);
                    let before = failing.len();
                    for n in first..last {
                        world.run(seed.wrapping_add(n));
                        if !world.broken.is_empty() {
                            failing.push((seed.wrapping_add(n), world.broken.clone()));
                        }
                    }
                    progress(last - first, (failing.len() - before) as u64);
                }
                let mut total = total.lock().expect("no thread panics while it adds");
                total.stats.add(&world.stats);
                total.failing.append(&mut failing);
            });
        }
    });
    let mut report = total.into_inner().expect("no thread panics while it adds");
    report.failing.sort();
    report
}

/// Runs one schedule and tells everything that happened in it, a line an event, with the seconds since its beginning.
pub fn trace(seed: u64, without: Option<Without>) -> (Vec<String>, Report) {
    let mut world = world::World::new(without, true);
    world.run(seed);
    let failing = if world.broken.is_empty() { Vec::new() } else { vec![(seed, world.broken.clone())] };
    (world.log.unwrap_or_default(), Report { stats: world.stats, failing })
}
