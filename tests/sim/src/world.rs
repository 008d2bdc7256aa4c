//! One schedule: processes, faults and a merchant, in a fixed order that the seed decides. It must never look at a clock or at
//! any other source of chance, so that a seed is a complete description.

use fastrand::Rng;
use gatehouse_life::{
    Answer, Event, Grant, Granted, Hand, LEASE_MILLIS, Lease, Machine, Mode, OnUninstalled, Outcome, Owner, Probe, Put,
    Record, Request, Source, Stale, Status, Step, Tokens, Write, after_probe, on_uninstalled,
};
use gatehouse_shopify::Timestamp;

use crate::report::{Fault, Promise, Stats};
use crate::shopify::{Access, DAY, HOUR, MINUTE, Millis, Pair, Refresh, Reuse, SECOND, Shopify};
use crate::store::{Item, Store, Without};

/// The true time at which every schedule begins.
const BEGIN: Millis = 1_795_219_200_000;
const NEVER: Millis = Millis::MAX;
/// Places for deliveries of `app/uninstalled`, beside the processes.
const HOOK_SLOTS: usize = 3;
/// More events than this in one schedule: something goes round in circles.
const MAX_EVENTS: u32 = 50_000;
/// How long an ID token is taken, leeway included.
const ID_TOKEN_LIFE: Millis = 70 * SECOND;

/// How likely each fault is, in 65,536ths of each occasion.
#[derive(Clone, Copy, Debug, Default)]
struct Odds {
    lost: u16,
    server_error: u16,
    throttled: u16,
    slow: u16,
    missing_fields: u16,
    store: u16,
    kms: u16,
    death: u16,
    pause: u16,
}

/// What a process is running a [`Machine`] for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    Live,
    /// An `app/uninstalled`, triggered then, if it says so.
    Hook(Option<Millis>),
}

/// What happens next in a process, at its `at`.
#[derive(Clone, Copy, Debug)]
enum Next {
    Nothing,
    Begin {
        hand: Hand,
        stale: Option<Stale>,
    },
    Do(Step),
    Tell(Event),
    /// Shopify answers, or the time for it is over.
    HearShopify,
    /// The second of two writes, where the atomic one is switched off.
    WriteRest(Write),
    HookBegin,
    HookForget {
        version: u64,
    },
    HookNote {
        version: u64,
    },
}

#[derive(Clone, Debug)]
struct Process {
    skew: Millis,
    at: Millis,
    next: Next,
    task: Task,
    machine: Machine,
    owner: Owner,
    stale: Option<Stale>,
    /// When the ID token was made, or the code's number, and for which installation.
    proof: (Millis, u32, u32),
    issued_at: Millis,
    read: Option<Item>,
    /// What the next read under the lease shows where the second look is switched off.
    first_look: Option<Option<Item>>,
    /// The lease that this process believes it holds where the lease is switched off.
    pretended: Option<Lease>,
    presented: Option<Refresh>,
    /// Of the call in flight, so that a late answer does not reach the next one.
    call: u32,
    call_ends: Millis,
    heard: Option<Answer>,
    got: Option<Pair>,
    /// The refresh token of `got`, where the answer had it.
    received: Option<Refresh>,
    written: Option<(Access, Option<Timestamp>)>,
    doomed: bool,
    refusals: u8,
}

/// A request on its way to Shopify.
#[derive(Clone, Copy, Debug)]
struct Flight {
    at: Millis,
    process: usize,
    call: u32,
    grant: Grant,
    presented: Option<Refresh>,
    proof: (Millis, u32, u32),
    answer: Arrival,
}

/// What becomes of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arrival {
    Whole,
    WithoutExpiry,
    WithoutRefresh,
    Lost,
    ServerError,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scripted {
    /// A burst of calls begins.
    Epoch,
    Uninstall,
    Reinstall,
    Merchant,
    /// The merchant agrees to something, whatever is stored.
    Consent,
}

/// Everything that a schedule consists of. Reused from schedule to schedule for its memory.
#[derive(Debug)]
pub(crate) struct World {
    rng: Rng,
    now: Millis,
    without: Option<Without>,
    odds: Odds,
    shopify: Shopify,
    store: Store,
    processes: Vec<Process>,
    count: usize,
    flights: Vec<Flight>,
    script: Vec<(Millis, Scripted)>,
    hooks: Vec<(Millis, Option<Millis>)>,
    owners: u128,
    codes: u32,
    calls: u32,
    /// No fault is drawn any more, and no new run begins of itself.
    calm: bool,
    /// The outcome of the last run of [`Task::Live`], and whether the Admin API took its token.
    last: Option<(Outcome, bool)>,
    rotations_before: u64,
    /// In a schedule without faults: how often the tokens grow old, and so may be refreshed.
    exact: Option<u64>,
    pub(crate) stats: Stats,
    pub(crate) broken: Vec<Promise>,
    pub(crate) log: Option<Vec<String>>,
}

macro_rules! note {
    ($world:expr, $($arg:tt)*) => {
        if $world.log.is_some() {
            let line = format!($($arg)*);
            $world.write_down(line);
        }
    };
}

impl World {
    pub(crate) fn new(without: Option<Without>, trace: bool) -> Self {
        Self {
            rng: Rng::with_seed(0),
            now: BEGIN,
            without,
            odds: Odds::default(),
            shopify: Shopify::new(Reuse::RetiresSuccessor, true),
            store: Store::default(),
            processes: Vec::with_capacity(16),
            count: 0,
            flights: Vec::with_capacity(16),
            script: Vec::with_capacity(16),
            hooks: Vec::with_capacity(8),
            owners: 0,
            codes: 0,
            calls: 0,
            calm: false,
            last: None,
            rotations_before: 0,
            exact: None,
            stats: Stats::default(),
            broken: Vec::new(),
            log: trace.then(Vec::new),
        }
    }

    fn write_down(&mut self, line: String) {
        let at = self.now - BEGIN;
        if let Some(log) = &mut self.log {
            log.push(format!("{:>10}.{:03} {line}", at / 1000, at % 1000));
        }
    }

    fn breaks(&mut self, promise: Promise) {
        note!(self, "BROKEN: {promise:?}");
        if !self.broken.contains(&promise) {
            self.broken.push(promise);
        }
        self.stats.broken[promise as usize] += 1;
    }

    /// Runs the schedule of this seed from beginning to end.
    pub(crate) fn run(&mut self, seed: u64) {
        self.set_up(seed);
        self.drain();
        self.judge();
        self.stats.schedules += 1;
    }

    fn chance(&mut self, odds: u16) -> bool {
        odds > 0 && !self.calm && self.rng.u16(..) < odds
    }

    fn fault(&mut self, fault: Fault) {
        self.stats.faults[fault as usize] += 1;
    }

    fn set_up(&mut self, seed: u64) {
        // Neighbouring seeds must not give neighbouring schedules.
        let mut mixed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        self.rng = Rng::with_seed(mixed ^ (mixed >> 31));
        self.now = BEGIN;
        self.calm = false;
        self.last = None;
        self.store.reset();
        self.flights.clear();
        self.script.clear();
        self.hooks.clear();
        self.broken.clear();
        if let Some(log) = &mut self.log {
            log.clear();
        }
        (self.owners, self.codes, self.calls) = (0, 0, 0);
        self.rotations_before = self.stats.rotations;

        let reuse = match self.rng.u8(..4) {
            0 | 1 => Reuse::RetiresSuccessor,
            2 => Reuse::KeepsSuccessor,
            _ => Reuse::SamePair,
        };
        let kills = self.rng.bool();
        self.shopify.reset(reuse, kills);
        // One schedule in sixteen is without faults.
        let smooth = self.rng.u8(..16) == 0;
        self.odds = if smooth { Odds::default() } else { self.draw_odds() };
        self.count = self.rng.usize(2..=8);
        self.processes.clear();
        for _ in 0..self.count + HOOK_SLOTS {
            let skew = self.rng.i64(-30_000..=30_000);
            self.processes.push(Process {
                skew,
                at: NEVER,
                next: Next::Nothing,
                task: Task::Live,
                machine: Machine::new(Request {
                    owner: Owner(0),
                    deadline: Timestamp::from_millis(0),
                    hand: Hand::Nothing,
                    mode: Mode::Expiring,
                    stale: None,
                }),
                owner: Owner(0),
                stale: None,
                proof: (0, 0, 0),
                issued_at: 0,
                read: None,
                first_look: None,
                pretended: None,
                presented: None,
                call: 0,
                call_ends: 0,
                heard: None,
                got: None,
                received: None,
                written: None,
                doomed: false,
                refusals: 0,
            });
        }
        note!(self, "{} processes, reuse {reuse:?}, acquisition kills access {kills}, {:?}", self.count, self.odds);
        self.draw_installation();
        let (epochs, removals) = self.draw_script();
        self.exact = (smooth && removals == 0).then_some(epochs);
    }

    fn draw_odds(&mut self) -> Odds {
        let most = match self.rng.u8(..4) {
            0 => 600,
            1 => 2_500,
            2 => 8_000,
            _ => 16_000,
        };
        let mut draw = |share: u16| {
            if self.rng.u8(..3) == 0 { 0 } else { self.rng.u16(0..most / share) }
        };
        let mut odds = Odds {
            lost: draw(1),
            server_error: draw(1),
            throttled: draw(1),
            slow: draw(1),
            missing_fields: draw(6),
            store: draw(2),
            kms: draw(3),
            death: draw(4),
            pause: draw(3),
        };
        // Processes that outlive their lease meet the others' writes: the rarest paths.
        if self.rng.u8(..8) == 0 {
            odds.pause = self.rng.u16(4_000..20_000);
        }
        odds
    }

    /// What the shop is like at the beginning.
    fn draw_installation(&mut self) {
        self.shopify.install();
        let what = self.rng.u8(..8);
        if what == 0 {
            note!(self, "a new shop");
            return;
        }
        let age = match self.rng.u8(..4) {
            0 => self.rng.i64(0..50 * MINUTE),
            1 => self.rng.i64(54 * MINUTE..58 * MINUTE),
            2 => self.rng.i64(HOUR..2 * HOUR),
            _ => self.rng.i64(DAY..80 * DAY),
        };
        let acquired = self.now - age;
        let at = Timestamp::from_millis(acquired);
        let record = Record {
            status: Status::Installed,
            version: 1,
            has_access: true,
            acquired_at: at,
            installed_at: at,
            written_by: Some(Owner(u128::MAX)),
            chain: (self.rng.u8(..8) > 0).then_some(Owner(u128::MAX)),
            ..Record::EMPTY
        };
        if what <= 2 {
            let original = self.shopify.give_original();
            note!(self, "a shop with a token that does not expire");
            self.store.put(record, original, None);
            return;
        }
        let pair = self.shopify.acquire(acquired);
        note!(self, "a shop whose tokens are {} s old: {pair:?}", age / SECOND);
        let record = Record {
            access_expires: Some(at.plus_secs(i64::from(pair.expires_in))),
            has_refresh: true,
            refresh_expires: Some(at.plus_secs(i64::from(pair.refresh_expires_in))),
            ..record
        };
        self.store.put(record, pair.access, Some(pair.refresh));
    }

    /// Gives the number of bursts of calls, and of removals.
    fn draw_script(&mut self) -> (u64, u64) {
        let mut at = self.now;
        let epochs = self.rng.u8(1..=4);
        for _ in 0..epochs {
            self.script.push((at, Scripted::Epoch));
            at += match self.rng.u8(..8) {
                0 => self.rng.i64(5 * SECOND..MINUTE),
                1 | 2 => self.rng.i64(54 * MINUTE..61 * MINUTE),
                3 | 4 => self.rng.i64(HOUR..3 * HOUR),
                5 => self.rng.i64(DAY..10 * DAY),
                6 => self.rng.i64(20 * DAY..25 * DAY),
                _ => self.rng.i64(25 * DAY..100 * DAY),
            };
        }
        let removals = if self.rng.u8(..3) == 0 { self.rng.u8(1..=2) } else { 0 };
        {
            for _ in 0..removals {
                let (epoch, _) = self.script[self.rng.usize(..usize::from(epochs))];
                let gone = epoch + self.rng.i64(-5 * SECOND..20 * SECOND).max(0);
                self.script.push((gone, Scripted::Uninstall));
                if self.rng.u8(..3) == 0 {
                    // And has just opened the app: an exchange or a code is on its way.
                    let opened = (gone - self.rng.i64(0..2 * SECOND)).max(self.now);
                    self.script.push((opened, Scripted::Consent));
                }
                if self.rng.u8(..4) > 0 {
                    let back = gone
                        + match self.rng.u8(..3) {
                            0 => self.rng.i64(500..10 * SECOND),
                            1 => self.rng.i64(10 * SECOND..3 * MINUTE),
                            _ => self.rng.i64(3 * MINUTE..2 * HOUR),
                        };
                    self.script.push((back, Scripted::Reinstall));
                    if self.rng.u8(..3) == 0 {
                        // And changes his mind while the first tokens are being asked for.
                        self.script.push((back + self.rng.i64(200..4 * SECOND), Scripted::Uninstall));
                    }
                }
            }
        }
        (u64::from(epochs), u64::from(removals))
    }

    /// Lets everything happen that is under way, in order of time.
    fn drain(&mut self) {
        let mut events = 0u32;
        loop {
            let (mut at, mut who) = (NEVER, 0);
            for (n, process) in self.processes.iter().enumerate() {
                if process.at < at {
                    (at, who) = (process.at, n);
                }
            }
            let flight = earliest(self.flights.iter().map(|f| f.at));
            let script = earliest(self.script.iter().map(|s| s.0));
            let hook = earliest(self.hooks.iter().map(|h| h.0));
            let [flight_at, script_at, hook_at] = [flight, script, hook].map(|found| found.map_or(NEVER, |f| f.0));
            let soonest = at.min(flight_at).min(script_at).min(hook_at);
            if soonest == NEVER {
                break;
            }
            events += 1;
            if events > MAX_EVENTS {
                self.breaks(Promise::Endless);
                break;
            }
            self.now = self.now.max(soonest);
            if let Some((_, n)) = flight.filter(|f| f.0 == soonest) {
                let flight = self.flights.swap_remove(n);
                self.shopify_handles(flight);
            } else if let Some((_, n)) = script.filter(|s| s.0 == soonest) {
                let (_, what) = self.script.swap_remove(n);
                self.scripted(what);
            } else if let Some((_, n)) = hook.filter(|h| h.0 == soonest) {
                let (_, triggered_at) = self.hooks.swap_remove(n);
                self.deliver_hook(triggered_at);
            } else {
                self.step(who);
            }
        }
        self.stats.events += u64::from(events);
    }

    fn scripted(&mut self, what: Scripted) {
        match what {
            Scripted::Epoch => {
                let new = self.store.item.is_none();
                note!(self, "-- calls begin");
                for n in 0..self.count {
                    if self.processes[n].at != NEVER || self.rng.u8(..4) == 0 {
                        continue;
                    }
                    let hand = self.draw_hand(new);
                    let within = if self.rng.u8(..4) == 0 { 20 * SECOND } else { 300 };
                    let at = self.now + self.rng.i64(0..within);
                    self.begin_at(n, at, hand, None);
                }
            }
            Scripted::Uninstall => {
                if !self.shopify.installed {
                    return;
                }
                note!(self, "-- the merchant removes the app");
                self.shopify.uninstall();
                self.stats.uninstalls += 1;
                let deliveries = 1 + u8::from(self.rng.u8(..4) == 0);
                for delivery in 0..deliveries {
                    let delay = match self.rng.u8(..4) {
                        0 => self.rng.i64(20..800),
                        1 => self.rng.i64(300..5 * SECOND),
                        2 => self.rng.i64(5 * SECOND..2 * MINUTE),
                        _ => {
                            self.fault(Fault::LateWebhook);
                            self.rng.i64(2 * MINUTE..3 * HOUR)
                        }
                    };
                    if delivery > 0 {
                        self.fault(Fault::RepeatedWebhook);
                    }
                    let timeless = self.rng.u8(..8) == 0;
                    if timeless {
                        self.fault(Fault::TimelessWebhook);
                    }
                    self.hooks.push((self.now + delay, (!timeless).then_some(self.now)));
                }
            }
            Scripted::Reinstall => {
                if self.shopify.installed {
                    return;
                }
                note!(self, "-- the merchant installs the app");
                self.shopify.install();
                self.stats.reinstalls += 1;
                self.script.push((self.now + self.rng.i64(50..3 * SECOND), Scripted::Merchant));
            }
            Scripted::Consent => {
                let Some(n) = (0..self.count).find(|n| self.processes[*n].at == NEVER) else { return };
                let hand = if self.rng.bool() { Hand::Code } else { Hand::IdToken { force: true } };
                self.begin_at(n, self.now, hand, None);
            }
            Scripted::Merchant => {
                let Some(n) = (0..self.count).find(|n| self.processes[*n].at == NEVER) else {
                    self.script.push((self.now + SECOND, Scripted::Merchant));
                    return;
                };
                let hand = if self.rng.u8(..4) == 0 { Hand::Code } else { Hand::IdToken { force: false } };
                self.begin_at(n, self.now, hand, None);
            }
        }
    }

    fn draw_hand(&mut self, new: bool) -> Hand {
        let merchant = if new { 14 } else { 4 };
        if self.rng.u8(..16) >= merchant {
            return Hand::Nothing;
        }
        match self.rng.u8(..8) {
            0 => Hand::Code,
            1 => Hand::IdToken { force: true },
            _ => Hand::IdToken { force: false },
        }
    }

    fn begin_at(&mut self, n: usize, at: Millis, hand: Hand, stale: Option<Stale>) {
        let process = &mut self.processes[n];
        process.at = at;
        process.next = Next::Begin { hand, stale };
    }

    fn deliver_hook(&mut self, triggered_at: Option<Millis>) {
        let slots = self.count..self.count + HOOK_SLOTS;
        let Some(n) = slots.into_iter().find(|n| self.processes[*n].at == NEVER) else {
            self.hooks.push((self.now + 5 * SECOND, triggered_at));
            return;
        };
        note!(self, "hook{n} app/uninstalled of {:?} arrives", triggered_at.map(|at| (at - BEGIN) / 1000));
        self.stats.hooks += 1;
        let at = self.now + self.rng.i64(1..50);
        let process = &mut self.processes[n];
        process.task = Task::Hook(triggered_at);
        process.refusals = 0;
        process.next = Next::HookBegin;
        process.at = at;
    }

    /// How long a request to DynamoDB or KMS takes one way.
    fn store_delay(&mut self) -> Millis {
        if self.chance(self.odds.slow / 4) {
            self.fault(Fault::SlowStore);
            return self.rng.i64(200..4 * SECOND);
        }
        self.rng.i64(1..8)
    }

    fn clock(&self, n: usize) -> Timestamp {
        Timestamp::from_millis(self.now + self.processes[n].skew)
    }

    fn step(&mut self, n: usize) {
        let next = std::mem::replace(&mut self.processes[n].next, Next::Nothing);
        self.processes[n].at = NEVER;
        match next {
            Next::Nothing => {}
            Next::Begin { hand, stale } => self.begin(n, hand, stale),
            Next::Do(step) => self.carry_out(n, step),
            Next::Tell(event) => self.tell(n, event),
            Next::HearShopify => {
                let answer = self.processes[n].heard.take().unwrap_or(Answer::Lost);
                self.processes[n].call = 0;
                self.tell(n, Event::Answer(answer));
            }
            Next::WriteRest(write) => {
                let process = &self.processes[n];
                let (pair, presented, before) = (process.got.expect("written once"), process.presented, process.read);
                self.store.write_refresh(&write, pair, presented, before.as_ref());
                self.later(n, Event::Write(Put::Done));
            }
            Next::HookBegin => self.hook_begin(n),
            Next::HookForget { version } => self.hook_forget(n, version),
            Next::HookNote { version } => self.hook_note(n, version),
        }
    }

    fn begin(&mut self, n: usize, hand: Hand, stale: Option<Stale>) {
        // Only a merchant of a shop that has the app holds anything.
        let hand = if self.shopify.installed { hand } else { Hand::Nothing };
        self.owners += 1;
        let owner = Owner(self.owners);
        let budget = if self.calm { 100 * SECOND } else { self.rng.i64(2 * SECOND..30 * SECOND) };
        let deadline = self.clock(n).plus_millis(budget);
        self.codes += 1;
        let proof = (self.now, self.codes, self.shopify.installation);
        let process = &mut self.processes[n];
        process.owner = owner;
        process.stale = stale;
        process.machine = Machine::new(Request { owner, deadline, hand, mode: Mode::Expiring, stale });
        process.proof = proof;
        process.read = None;
        process.first_look = None;
        process.pretended = None;
        process.presented = None;
        process.call = 0;
        process.heard = None;
        process.got = None;
        process.received = None;
        process.written = None;
        process.doomed = false;
        self.stats.runs += 1;
        note!(self, "p{n} begins as {} with {hand:?}, stale {stale:?}, {budget} ms", owner.0);
        self.tell(n, Event::Start);
    }

    /// Gives an event to the machine and sends what it asks for on its way.
    fn tell(&mut self, n: usize, event: Event) {
        if self.processes[n].doomed {
            return self.die(n);
        }
        let clock = self.clock(n);
        let step = self.processes[n].machine.next(clock, event);
        self.stats.steps += 1;
        note!(self, "p{n} {event:?} -> {step:?}");
        if !matches!(step, Step::Done(_)) && self.chance(self.odds.death) {
            self.fault(Fault::Death);
            if self.rng.bool() {
                return self.die(n);
            }
            // It dies after the step was carried out, before it hears of it.
            self.processes[n].doomed = true;
        }
        self.processes[n].issued_at = self.now;
        match step {
            Step::Done(outcome) => self.done(n, outcome),
            Step::Wait { min_millis, max_millis } => {
                let wait = self.rng.i64(i64::from(min_millis)..=i64::from(max_millis));
                self.processes[n].next = Next::Tell(Event::Waited);
                self.processes[n].at = self.now + wait;
            }
            Step::Call { grant, timeout_millis } => self.call(n, grant, Millis::from(timeout_millis)),
            _ => {
                self.processes[n].at = self.now + self.store_delay();
                self.processes[n].next = Next::Do(step);
            }
        }
    }

    fn die(&mut self, n: usize) {
        note!(self, "p{n} dies");
        let again = self.rng.i64(100..20 * SECOND);
        let process = &mut self.processes[n];
        process.doomed = false;
        process.at = NEVER;
        process.next = Next::Nothing;
        process.call = 0;
        match process.task {
            Task::Hook(triggered_at) => {
                process.task = Task::Live;
                self.hooks.push((self.now + again, triggered_at));
            }
            Task::Live => {
                if !self.calm && self.rng.u8(..4) > 0 {
                    let hand = self.draw_hand(false);
                    self.begin_at(n, self.now + again, hand, None);
                }
            }
        }
    }

    /// The answer of the store goes back; a process may be frozen before it sees it.
    fn later(&mut self, n: usize, event: Event) {
        let mut delay = self.store_delay();
        if self.chance(self.odds.pause) {
            self.fault(Fault::Pause);
            delay += self.rng.i64(SECOND..40 * SECOND);
        }
        let process = &mut self.processes[n];
        process.at = self.now + delay;
        process.next = Next::Tell(event);
    }

    /// Draws how a conditional write that would give `put` is reported, after whether it is made at all.
    fn reported(&mut self, made: Put) -> Put {
        if made == Put::Done && self.chance(self.odds.store) {
            self.fault(Fault::LostAcknowledgement);
            // The SDK repeats by itself, and then the condition no longer holds.
            return if self.rng.u8(..4) == 0 { Put::Conflict } else { Put::Unknown };
        }
        made
    }

    fn store_fails(&mut self) -> bool {
        let fails = self.chance(self.odds.store);
        if fails {
            self.fault(Fault::StoreFailure);
        }
        fails
    }

    fn key_fails(&mut self) -> bool {
        let fails = self.chance(self.odds.kms);
        if fails {
            self.fault(Fault::Kms);
        }
        fails
    }

    fn carry_out(&mut self, n: usize, step: Step) {
        let owner = self.processes[n].owner;
        let event = match step {
            Step::Read => self.read(n),
            Step::TakeLease { until, over, create } => {
                let lease = Lease { owner, until };
                let ends = self.processes[n].issued_at + LEASE_MILLIS;
                if self.store_fails() {
                    Event::Lease(Put::Unknown)
                } else if self.without == Some(Without::Lease) {
                    self.processes[n].pretended = Some(lease);
                    Event::Lease(Put::Done)
                } else {
                    let taken = self.store.take_lease(lease, over, create, ends);
                    let put = self.reported(if taken { Put::Done } else { Put::Conflict });
                    if self.without == Some(Without::SecondLook) && put == Put::Done {
                        self.processes[n].pretended = Some(lease);
                        self.processes[n].first_look = Some(self.processes[n].read);
                    }
                    Event::Lease(put)
                }
            }
            Step::Write(write) => match self.write(n, &write) {
                Some(event) => event,
                None => return,
            },
            Step::MarkNeedsReauth { version } => {
                if self.store_fails() {
                    Event::Write(Put::Unknown)
                } else {
                    let marked = self.store.mark_needs_reauth(owner, version, self.without);
                    if marked && self.something_stored_is_honoured() {
                        self.breaks(Promise::ShopLost);
                    }
                    Event::Write(self.reported(if marked { Put::Done } else { Put::Conflict }))
                }
            }
            Step::Release => {
                if !self.store_fails() {
                    self.store.release(owner);
                }
                Event::Released
            }
            Step::Call { .. } | Step::Wait { .. } | Step::Done(_) => unreachable!("not a step of the store"),
        };
        self.later(n, event);
    }

    fn read(&mut self, n: usize) -> Event {
        if self.store_fails() {
            return Event::ReadFailed;
        }
        let stale_look = self.processes[n].first_look.take();
        let mut item = stale_look.unwrap_or(self.store.item);
        let process = &mut self.processes[n];
        if let Some(lease) = process.pretended
            && (self.without == Some(Without::Lease) || stale_look.is_some())
        {
            match &mut item {
                Some(item) => item.record.lease = Some(lease),
                // Where nothing is stored yet, the lease is all there is.
                None => {
                    let mut store = Store::default();
                    store.take_lease(lease, None, true, 0);
                    item = store.item;
                }
            }
        }
        process.read = item;
        Event::Read(item.map(|item| item.record))
    }

    /// `None` when the process goes on to a second write by itself.
    fn write(&mut self, n: usize, write: &Write) -> Option<Event> {
        if self.key_fails() {
            return Some(Event::KeyUnavailable);
        }
        if self.store_fails() {
            return Some(Event::Write(Put::Unknown));
        }
        let process = &self.processes[n];
        let (pair, presented, before) =
            (process.got.expect("a write follows an answer"), process.presented, process.read);
        self.processes[n].written = Some((pair.access, write.access_expires));
        if self.without == Some(Without::AtomicWrite) {
            self.store.write_access(write, pair, before.as_ref());
            if self.chance(self.odds.death) {
                self.fault(Fault::Death);
                self.die(n);
                return None;
            }
            self.processes[n].at = self.now + self.store_delay();
            self.processes[n].next = Next::WriteRest(*write);
            return None;
        }
        let done = self.store.write(write, pair, presented, before.as_ref(), self.without);
        if done {
            self.stats.writes += 1;
        } else {
            self.stats.conflicts += 1;
        }
        Some(Event::Write(self.reported(if done { Put::Done } else { Put::Conflict })))
    }

    /// Sends a request to Shopify, and says when the process will hear of it.
    fn call(&mut self, n: usize, grant: Grant, timeout: Millis) {
        if self.key_fails() {
            self.processes[n].at = self.now + self.store_delay();
            self.processes[n].next = Next::Tell(Event::KeyUnavailable);
            return;
        }
        self.check_call(n, grant);
        let read = self.processes[n].read;
        let presented = match grant {
            Grant::Refresh(Source::Current) => read.and_then(|item| item.refresh),
            Grant::Refresh(Source::Spare(place)) => read.and_then(|item| item.spares[usize::from(place)]),
            Grant::Migrate | Grant::Exchange | Grant::Code => None,
        };
        self.calls += 1;
        self.stats.calls += 1;
        let call = self.calls;
        let (mut there, back) = (self.rng.i64(20..400), self.rng.i64(20..400));
        let mut dropped = false;
        let mut answer = Arrival::Whole;
        if self.chance(self.odds.lost) {
            if self.rng.bool() {
                self.fault(Fault::LostAnswer);
                answer = Arrival::Lost;
            } else {
                self.fault(Fault::LostRequest);
                dropped = true;
            }
        } else if self.chance(self.odds.server_error) {
            self.fault(Fault::ServerError);
            answer = Arrival::ServerError;
            dropped = self.rng.bool();
        } else if self.chance(self.odds.missing_fields) {
            self.fault(Fault::MissingField);
            answer = if self.rng.bool() { Arrival::WithoutExpiry } else { Arrival::WithoutRefresh };
        }
        if self.chance(self.odds.slow) {
            there += self.rng.i64(SECOND..40 * SECOND);
            self.fault(Fault::SlowAnswer);
        }
        let throttled = self.chance(self.odds.throttled);
        let mut pause = 0;
        if self.chance(self.odds.pause) {
            self.fault(Fault::Pause);
            pause = self.rng.i64(SECOND..40 * SECOND);
        }
        let now = self.now;
        let process = &mut self.processes[n];
        process.presented = presented;
        process.call = call;
        process.call_ends = now + timeout;
        process.heard = None;
        process.next = Next::HearShopify;
        let proof = process.proof;
        if throttled {
            self.fault(Fault::Throttled);
            let after_millis = self.rng.u32(1..=4) * 1000;
            let process = &mut self.processes[n];
            process.heard = Some(Answer::Busy { after_millis });
            process.at = now + (there + back).min(timeout);
            return;
        }
        let in_time = there + back < timeout && answer != Arrival::Lost && !(dropped && answer == Arrival::Whole);
        process.at = now + if in_time { there + back } else { timeout } + pause;
        if !in_time && answer == Arrival::Whole {
            answer = Arrival::Lost;
        }
        if !dropped {
            self.flights.push(Flight { at: now + there, process: n, call, grant, presented, proof, answer });
        }
    }

    /// What must hold at the moment a request leaves.
    fn check_call(&mut self, n: usize, grant: Grant) {
        let me = &self.processes[n];
        let owner = me.owner;
        let others_lease = self.store.item.is_some_and(|item| {
            item.record.lease.is_some_and(|lease| lease.owner != owner) && self.now < item.lease_ends
        });
        let others_call =
            self.processes.iter().enumerate().any(|(other, process)| {
                other != n && process.call != 0 && !process.doomed && self.now < process.call_ends
            });
        let mine = self.without == Some(Without::Lease)
            || self.store.item.and_then(|item| item.record.lease).is_some_and(|lease| lease.owner == owner);
        let read_version = me.read.map_or(0, |item| item.record.version);
        let merchant_insists = grant == Grant::Code || matches!(grant, Grant::Exchange);
        let needless = !merchant_insists
            && mine
            && self.store.item.is_some_and(|item| {
                let fresh = item.record.access_expires.is_some_and(|at| at.millis() - self.now > 6 * MINUTE);
                item.record.status == Status::Installed
                    && item.record.version != read_version
                    && item.written_under_lease
                    && fresh
            });
        if others_lease || others_call {
            self.breaks(Promise::TwoAtOnce);
        }
        if needless {
            self.breaks(Promise::NeedlessRefresh);
        }
    }

    /// A request has reached Shopify.
    fn shopify_handles(&mut self, flight: Flight) {
        let now = self.now;
        let (minted, code, installation) = flight.proof;
        let granted = match flight.grant {
            Grant::Refresh(_) => {
                let pair = flight.presented.and_then(|token| self.shopify.refresh(now, token));
                self.stats.rotations += u64::from(pair.is_some());
                pair.ok_or(Answer::Dead)
            }
            Grant::Migrate => {
                let pair = self.shopify.migrate(now);
                self.stats.migrations += u64::from(pair.is_some());
                pair.ok_or(Answer::Dead)
            }
            Grant::Exchange => {
                let good =
                    self.shopify.installed && installation == self.shopify.installation && now < minted + ID_TOKEN_LIFE;
                let pair = good.then(|| self.shopify.acquire(now));
                self.stats.exchanges += u64::from(pair.is_some());
                pair.ok_or(Answer::HandRefused)
            }
            Grant::Code => {
                let pair = self.shopify.redeem(now, code, installation);
                self.stats.codes += u64::from(pair.is_some());
                pair.ok_or(Answer::HandRefused)
            }
        };
        note!(self, "   Shopify: {:?} of p{} -> {granted:?}, {:?}", flight.grant, flight.process, flight.answer);
        let process = &mut self.processes[flight.process];
        if process.call != flight.call {
            self.stats.faults[Fault::DoneAfterTimeout as usize] += 1;
            return;
        }
        process.heard = match (flight.answer, granted) {
            (Arrival::Lost | Arrival::ServerError, _) => Some(Answer::Lost),
            (_, Err(answer)) => Some(answer),
            (arrival, Ok(pair)) => {
                process.got = Some(pair);
                process.received = (arrival != Arrival::WithoutRefresh).then_some(pair.refresh);
                Some(Answer::Granted(Granted {
                    expires_in: (arrival != Arrival::WithoutExpiry).then_some(pair.expires_in),
                    has_refresh: arrival != Arrival::WithoutRefresh,
                    refresh_expires_in: (arrival == Arrival::Whole).then_some(pair.refresh_expires_in),
                }))
            }
        };
    }

    fn done(&mut self, n: usize, outcome: Outcome) {
        let mut taken = false;
        // A run that ends well has thrown away what it did not store: that must not have been the only key.
        if let Some(token) = self.processes[n].received
            && !matches!(outcome, Outcome::Fail(_))
        {
            self.store.count_as_stored(token);
        }
        match outcome {
            Outcome::Use { version, tokens } => {
                let process = &self.processes[n];
                let (access, expires) = match tokens {
                    Tokens::Read => process.read.map_or((None, None), |item| (item.access, item.record.access_expires)),
                    Tokens::Written => process.written.map_or((None, None), |(access, at)| (Some(access), at)),
                };
                if expires.is_some_and(|at| at <= self.clock(n)) {
                    self.breaks(Promise::ExpiredUsed);
                }
                match access {
                    Some(access) if self.store.has_stored(access) => taken = self.shopify.admits(self.now, access),
                    _ => self.breaks(Promise::UnstoredUsed),
                }
                note!(self, "   the Admin API {} {access:?}", if taken { "takes" } else { "refuses" });
                if taken {
                    self.stats.used += 1;
                } else {
                    self.stats.refused += 1;
                    if self.processes[n].refusals < 4 && (self.calm || self.rng.u8(..5) > 0) {
                        self.processes[n].refusals += 1;
                        let at = self.now + self.rng.i64(1..50);
                        self.begin_at(n, at, Hand::Nothing, Some(Stale::Refused(version)));
                        return;
                    }
                }
            }
            Outcome::NeedsReauth => self.stats.needs_reauth += 1,
            Outcome::Fail(_) => self.stats.failed += 1,
        }
        let version = self.processes[n].machine.version();
        self.processes[n].refusals = 0;
        match self.processes[n].task {
            Task::Live => {
                self.last = Some((outcome, taken));
                if !self.calm && self.rng.u8(..8) < 3 {
                    let at = self.now + self.rng.i64(10..30 * SECOND);
                    let hand = self.draw_hand(self.store.item.is_none());
                    self.begin_at(n, at, hand, None);
                }
            }
            Task::Hook(triggered_at) => {
                let probe = match outcome {
                    Outcome::Use { version, .. } if taken => Probe::Alive { version },
                    Outcome::NeedsReauth => Probe::Dead { version },
                    _ => Probe::Unknown,
                };
                match after_probe(probe) {
                    Some(decision) => self.hook_decided(n, decision),
                    None => {
                        self.processes[n].task = Task::Live;
                        self.hooks.push((self.now + 30 * SECOND, triggered_at));
                    }
                }
            }
        }
    }

    fn hook_begin(&mut self, n: usize) {
        let Task::Hook(triggered_at) = self.processes[n].task else { return };
        if self.store_fails() {
            self.processes[n].task = Task::Live;
            self.hooks.push((self.now + 5 * SECOND, triggered_at));
            return;
        }
        let record = self.store.item.map(|item| item.record);
        let clock = self.clock(n);
        let decision = on_uninstalled(record.as_ref(), triggered_at.map(Timestamp::from_millis), clock);
        self.hook_decided(n, decision);
    }

    fn hook_decided(&mut self, n: usize, decision: OnUninstalled) {
        note!(self, "hook{n} {decision:?}");
        let at = self.now + self.store_delay();
        let process = &mut self.processes[n];
        match decision {
            OnUninstalled::Keep { version } => {
                process.next = Next::HookNote { version };
                process.at = at;
            }
            OnUninstalled::Wait => {
                if let Task::Hook(triggered_at) = process.task {
                    process.task = Task::Live;
                    self.hooks.push((self.now + 30 * SECOND, triggered_at));
                }
            }
            OnUninstalled::Forget { version } => {
                process.next = Next::HookForget { version };
                process.at = at;
            }
            OnUninstalled::Ambiguous { .. } => {
                process.next = Next::Begin { hand: Hand::Nothing, stale: None };
                process.at = at;
            }
        }
    }

    fn hook_note(&mut self, n: usize, version: u64) {
        let Task::Hook(triggered_at) = self.processes[n].task else { return };
        if self.store_fails() {
            self.processes[n].task = Task::Live;
            self.hooks.push((self.now + 5 * SECOND, triggered_at));
            return;
        }
        let noted = triggered_at.is_none_or(|at| self.store.note_removal(version, Timestamp::from_millis(at)));
        if noted {
            self.processes[n].task = Task::Live;
        } else {
            // Somebody wrote meanwhile: decide again.
            self.processes[n].next = Next::HookBegin;
            self.processes[n].at = self.now + 1;
        }
    }

    fn hook_forget(&mut self, n: usize, version: u64) {
        let Task::Hook(triggered_at) = self.processes[n].task else { return };
        let now = self.now;
        let living = self.store.item.is_some_and(|item| {
            let refreshable =
                item.refresh.iter().chain(item.spares.iter().flatten()).any(|token| self.shopify.honours(now, *token));
            // An access token of an installation that was found dead serves nobody, even if Shopify would take it.
            let serves = item.record.status == Status::Installed;
            item.record.version == version
                && (refreshable || (serves && item.access.is_some_and(|token| self.shopify.admits(now, token))))
        });
        if self.store_fails() {
            self.processes[n].task = Task::Live;
            self.hooks.push((now + 5 * SECOND, triggered_at));
            return;
        }
        if self.store.forget(version, triggered_at.map(Timestamp::from_millis)) {
            self.stats.forgets += 1;
            if living {
                self.breaks(Promise::LivingForgotten);
            }
            self.processes[n].task = Task::Live;
        } else {
            // Somebody wrote meanwhile: decide again.
            self.processes[n].next = Next::HookBegin;
            self.processes[n].at = now + 1;
        }
    }

    fn something_stored_is_honoured(&self) -> bool {
        (self.store.original_stored && self.shopify.migratable(self.now))
            || self.store.refresh_tokens_ever().any(|token| self.shopify.honours(self.now, token))
    }

    /// The faults are over: whoever asks now, without any merchant, must get a live token if Shopify honours anything that was
    /// ever stored, or received by a run that ended well; and a merchant who opens the app must always.
    fn judge(&mut self) {
        self.calm = true;
        let rotations = self.stats.rotations - self.rotations_before;
        if self.exact.is_some_and(|most| rotations > most) {
            self.breaks(Promise::NeedlessRefresh);
        }
        if !self.shopify.installed {
            self.stats.ended_removed += 1;
            if self.store.item.is_some_and(|item| item.record.has_access) {
                self.breaks(Promise::OutlivedRemoval);
            }
            return;
        }
        let keepable = self.something_stored_is_honoured();
        if self.ask(Hand::Nothing) {
            return;
        }
        if keepable {
            self.breaks(Promise::ShopLost);
            return;
        }
        // Shopify's rules allow nothing more: no token that it honours was ever stored.
        self.stats.ended_dark += 1;
        if !self.ask(Hand::IdToken { force: false }) {
            self.breaks(Promise::MerchantLockedOut);
        }
    }

    fn ask(&mut self, hand: Hand) -> bool {
        note!(self, "== the faults are over; somebody asks with {hand:?}");
        self.last = None;
        self.processes[0].task = Task::Live;
        self.processes[0].refusals = 0;
        self.begin_at(0, self.now + 1, hand, None);
        self.drain();
        matches!(self.last, Some((Outcome::Use { .. }, true)))
    }
}

/// The place and time of the earliest.
fn earliest(times: impl Iterator<Item = Millis>) -> Option<(Millis, usize)> {
    times.enumerate().map(|(n, at)| (at, n)).min()
}
