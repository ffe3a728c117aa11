//! Places for connections: how many there are, how many of them one host gets, what calls over them
//! may cost, and who gives his up.
//!
//! **Guarantees.** A newcomer always gets a place. When all are taken, or all that its origin may
//! have, the connection over which no call was ever let in gives up its own, the oldest first; then
//! the one whose last call was let in longest ago. So whoever holds places without using them holds
//! them against nobody who does.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::intake::Intake;
use super::listen::Limits;
use crate::reconciler::Identity;

/// What is known of the connection that a call came over.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// The other end.
    pub peer: SocketAddr,
    /// Our end, as the client reached it.
    pub local: SocketAddr,
    budget: Arc<Mutex<Budget>>,
    intake: Option<Intake>,
    use_of: Use,
    who: Who,
}

/// Who is at the other end, once that was asked. It stays the same for as long as the connection.
pub(super) type Who = Arc<tokio::sync::Mutex<Option<Known>>>;

/// An answer to that, and when it was given.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub identity: Identity,
    pub at: Instant,
}

impl Line {
    /// Where it is kept who is at the other end.
    pub fn who(&self) -> &Who {
        &self.who
    }

    /// What its origin may hold of the room for unfinished requests; `None` = all of it.
    pub fn intake(&self) -> Option<&Intake> {
        self.intake.as_ref()
    }

    /// Takes one call off the budget; `false` when none is left.
    pub fn spend(&self) -> bool {
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        budget.spend(Instant::now())
    }

    /// A call was let in: the connection is of use to somebody.
    pub fn let_in(&self) {
        let Use { all, last } = &self.use_of;
        last.store(all.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}

/// A bucket that fills at the allowed rate.
#[derive(Debug)]
struct Budget {
    per_second: f64,
    left: f64,
    filled: Instant,
}

impl Budget {
    fn new(per_second: u32, now: Instant) -> Self {
        let per_second = f64::from(per_second);
        Self {
            per_second,
            left: per_second,
            filled: now,
        }
    }

    fn spend(&mut self, now: Instant) -> bool {
        let gained = now.duration_since(self.filled).as_secs_f64() * self.per_second;
        self.left = (self.left + gained).min(self.per_second);
        self.filled = now;
        if self.left < 1.0 {
            return false;
        }
        self.left -= 1.0;
        true
    }
}

/// When a connection was last of use, counted in calls rather than in time.
#[derive(Clone, Debug)]
struct Use {
    /// Calls of all connections that were let in.
    all: Arc<AtomicU64>,
    /// Which of them was this connection's last, from 1; 0 = it had none.
    last: Arc<AtomicU64>,
}

/// All places. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    taken: Arc<Mutex<Taken>>,
    calls: Arc<AtomicU64>,
}

/// How many connections there are. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Connections(pub(super) Places);

impl Connections {
    /// How many are open now.
    pub fn count(&self) -> usize {
        self.0.taken().seats.len()
    }
}

#[derive(Debug, Default)]
struct Taken {
    origins: HashMap<Origin, Guest>,
    /// By arrival.
    seats: BTreeMap<u64, Seat>,
    arrivals: u64,
}

/// Where connections come from that share what they may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Origin {
    /// The daemon's own user, root, or a user of this machine that is not known.
    Here,
    /// Another user of this machine.
    User(u32),
    /// Another host, a container among them.
    Host(IpAddr),
}

impl Origin {
    /// How many places it may have of all that there are.
    fn share(self, limits: &Limits) -> usize {
        match self {
            Self::Here => usize::MAX,
            // Components may run as it, as many as there are.
            Self::User(_) => limits.connections.div_ceil(2),
            Self::Host(_) => limits.connections_per_host,
        }
    }

    /// What it may hold of the room for unfinished requests; `None` = all of it.
    fn intake(self) -> Option<Intake> {
        match self {
            Self::Here => None,
            Self::User(_) | Self::Host(_) => Some(Intake::of_a_stranger()),
        }
    }
}

/// An origin that has connections.
#[derive(Debug)]
struct Guest {
    connections: usize,
    budget: Arc<Mutex<Budget>>,
    intake: Option<Intake>,
}

/// One taken place. Dropping it tells its holder to go.
#[derive(Debug)]
struct Seat {
    origin: Origin,
    use_of: Use,
    _hold: oneshot::Sender<Infallible>,
}

/// The hold of one connection on its place, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    number: u64,
    budget: Arc<Mutex<Budget>>,
    intake: Option<Intake>,
    use_of: Use,
    held: Held,
}

#[derive(Debug)]
enum Held {
    Until(oneshot::Receiver<Infallible>),
    NoMore,
}

impl Places {
    /// A place for a connection from `origin`; another one may have to give up its own for that.
    pub fn enter(&self, origin: Origin, limits: &Limits) -> Place {
        let new_budget = || {
            let budget = Budget::new(limits.calls_per_second, Instant::now());
            Arc::new(Mutex::new(budget))
        };
        let mut taken = self.taken();
        let own = taken
            .origins
            .get(&origin)
            .map_or(0, |guest| guest.connections);
        if own >= origin.share(limits) {
            taken.give_up(|seat| seat.origin == origin);
        } else if taken.seats.len() >= limits.connections {
            taken.give_up(|_| true);
        }
        let guest = taken.origins.entry(origin).or_insert_with(|| Guest {
            connections: 0,
            budget: new_budget(),
            intake: origin.intake(),
        });
        guest.connections += 1;
        let intake = guest.intake.clone();
        // On this machine, each connection is another component's.
        let budget = match origin {
            Origin::Here | Origin::User(_) => new_budget(),
            Origin::Host(_) => Arc::clone(&guest.budget),
        };
        let use_of = Use {
            all: Arc::clone(&self.calls),
            last: Arc::default(),
        };
        let (hold, held) = oneshot::channel();
        let number = taken.arrivals;
        taken.arrivals += 1;
        let seat = Seat {
            origin,
            use_of: use_of.clone(),
            _hold: hold,
        };
        taken.seats.insert(number, seat);
        Place {
            places: self.clone(),
            number,
            budget,
            intake,
            use_of,
            held: Held::Until(held),
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// Of the places that `may` say yes to, frees the one that was of least use.
    fn give_up(&mut self, may: impl Fn(&Seat) -> bool) {
        let least = self
            .seats
            .iter()
            .filter(|(_, seat)| may(seat))
            .min_by_key(|(number, seat)| (seat.use_of.last.load(Ordering::Relaxed), **number))
            .map(|(number, _)| *number);
        if let Some(number) = least {
            self.free(number);
        }
    }

    fn free(&mut self, number: u64) {
        // It may have been given up before its holder left.
        let Some(seat) = self.seats.remove(&number) else {
            return;
        };
        if let Some(guest) = self.origins.get_mut(&seat.origin) {
            guest.connections -= 1;
            if guest.connections == 0 {
                self.origins.remove(&seat.origin);
            }
        }
    }
}

impl Place {
    /// The connection that holds this place, as calls over it see it.
    pub fn line(&self, peer: SocketAddr, local: SocketAddr) -> Line {
        Line {
            peer,
            local,
            budget: Arc::clone(&self.budget),
            intake: self.intake.clone(),
            use_of: self.use_of.clone(),
            who: Who::default(),
        }
    }

    /// Ready once the place was given to somebody else.
    pub fn poll_given_up(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match &mut self.held {
            Held::NoMore => Poll::Ready(()),
            Held::Until(hold) => Pin::new(hold).poll(context).map(|_| {
                self.held = Held::NoMore;
            }),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken().free(self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NEAR: Origin = Origin::Here;

    fn far() -> Origin {
        Origin::Host("10.0.0.9".parse().unwrap())
    }

    fn call_over(place: &Place) {
        let at = SocketAddr::from(([127, 0, 0, 1], 1));
        place.line(at, at).let_in();
    }

    /// The places, by their position, that are still held.
    fn held(places: &mut [Place]) -> Vec<usize> {
        let mut context = Context::from_waker(std::task::Waker::noop());
        let mut held = Vec::new();
        for (at, place) in places.iter_mut().enumerate() {
            if place.poll_given_up(&mut context).is_pending() {
                held.push(at);
            }
        }
        held
    }

    #[tokio::test(start_paused = true)]
    async fn a_budget_fills_again_at_its_rate_and_holds_one_second_of_calls() {
        let mut budget = Budget::new(100, Instant::now());
        let spent = |budget: &mut Budget| {
            (0..1000)
                .take_while(|_| budget.spend(Instant::now()))
                .count()
        };
        assert_eq!(spent(&mut budget), 100);
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(spent(&mut budget), 50);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(spent(&mut budget), 100);
    }

    #[test]
    fn who_never_called_gives_up_its_place_first_then_who_called_longest_ago() {
        let limits = Limits {
            connections: 4,
            ..Limits::default()
        };
        let open = Places::default();
        let mut places: Vec<_> = (0..4).map(|_| open.enter(NEAR, &limits)).collect();
        call_over(&places[0]);
        call_over(&places[2]);
        for (newcomer, left) in [(4, [0, 2, 3, 4]), (5, [0, 2, 4, 5])] {
            places.push(open.enter(NEAR, &limits));
            assert_eq!(held(&mut places), left, "at newcomer {newcomer}");
        }
        for at in [4, 5, 0] {
            call_over(&places[at]);
        }
        places.push(open.enter(NEAR, &limits));
        assert_eq!(held(&mut places), [0, 4, 5, 6]);
    }

    #[test]
    fn one_foreign_host_takes_no_more_places_than_its_share_and_they_are_given_back() {
        let limits = Limits {
            connections: 10,
            connections_per_host: 3,
            ..Limits::default()
        };
        let open = Places::default();
        let mut theirs: Vec<_> = (0..5).map(|_| open.enter(far(), &limits)).collect();
        assert_eq!(held(&mut theirs), [2, 3, 4]);
        let mut ours: Vec<_> = (0..7).map(|_| open.enter(NEAR, &limits)).collect();
        assert_eq!(held(&mut theirs), [2, 3, 4]);
        assert_eq!(held(&mut ours).len(), 7);
        assert_eq!(open.taken().seats.len(), 10);
        drop((ours, theirs));
        let taken = open.taken();
        assert!(taken.seats.is_empty() && taken.origins.is_empty());
    }

    #[test]
    fn another_user_of_this_machine_takes_no_more_than_half_however_much_it_calls() {
        let limits = Limits {
            connections: 10,
            ..Limits::default()
        };
        let open = Places::default();
        let mut ours: Vec<_> = (0..5).map(|_| open.enter(NEAR, &limits)).collect();
        let mut theirs = Vec::new();
        for _ in 0..20 {
            let place = open.enter(Origin::User(1000), &limits);
            call_over(&place);
            theirs.push(place);
        }
        assert_eq!(held(&mut theirs).len(), 5);
        assert_eq!(held(&mut ours).len(), 5, "none of which was ever used");
    }

    #[test]
    fn the_connections_of_one_foreign_host_share_one_budget_and_local_ones_do_not() {
        let limits = Limits {
            calls_per_second: 10,
            ..Limits::default()
        };
        let open = Places::default();
        let spent = |origin| {
            let places: Vec<_> = (0..3).map(|_| open.enter(origin, &limits)).collect();
            let now = Instant::now();
            let spend = |place: &Place| place.budget.lock().unwrap().spend(now);
            let calls = |place| (0..20).filter(|_| spend(place)).count();
            places.iter().map(calls).sum::<usize>()
        };
        assert_eq!(spent(NEAR), 30);
        assert_eq!(spent(far()), 10);
    }
}
