//! Two clusters and a hub that lose, delay and forget: whatever happens, each end sends where the
//! other listens.

use std::time::Duration;

use proptest::prelude::*;

use super::{Demand, Generation, Keys, Seen, choose};

/// One end: what its gateway has open, and by what it sends.
#[derive(Debug, Clone, Default)]
struct End {
    /// What the hub told last.
    told: (Generation, Option<Generation>),
    /// Generations whose keys have arrived in the pod.
    open: Vec<Generation>,
    /// Since when each generation's probes come back.
    up_since: Vec<(Generation, u64)>,
    used: Option<Generation>,
    /// What the hub was told last of `used`.
    reported: Option<Generation>,
}

/// Something that happens, at end 0 or 1 where it happens at one.
#[derive(Debug, Clone, Copy)]
enum Event {
    /// The hub's word arrives.
    Told(usize),
    /// The pod gets the keys and closes what is closed.
    Mounted(usize),
    /// The probes' state is looked at.
    Probed(usize),
    /// The hub hears by what the end sends.
    Reported(usize),
    /// The router-sidecar is killed: it forgets its probes, and finds the routes it had made.
    SidecarKilled(usize),
    /// The gateway's container is killed, and comes back with what it was told.
    GatewayKilled(usize),
    /// The hub looks.
    Hub,
    /// A person asks for new keys.
    Asked,
    /// Seconds pass.
    Time(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let end = 0..2_usize;
    prop_oneof![
        4 => end.clone().prop_map(Event::Told),
        4 => end.clone().prop_map(Event::Mounted),
        8 => end.clone().prop_map(Event::Probed),
        4 => end.clone().prop_map(Event::Reported),
        1 => end.clone().prop_map(Event::SidecarKilled),
        1 => end.prop_map(Event::GatewayKilled),
        4 => Just(Event::Hub),
        1 => Just(Event::Asked),
        4 => (1..6_u64).prop_map(Event::Time),
    ]
}

#[derive(Debug, Default)]
struct World {
    now: u64,
    keys: Keys,
    requests: u32,
    ends: [End; 2],
}

impl World {
    fn new() -> Self {
        let end = End { open: vec![0], used: Some(0), reported: Some(0), ..End::default() };
        let mut world = Self { ends: [end.clone(), end], ..Self::default() };
        world.look(0);
        world.look(1);
        world
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Told(i) => self.ends[i].told = (self.keys.generation, self.keys.next),
            Event::Mounted(i) | Event::GatewayKilled(i) => {
                let (generation, next) = self.ends[i].told;
                self.ends[i].open = [Some(generation), next].into_iter().flatten().collect();
            }
            Event::Probed(i) => self.look(i),
            Event::Reported(i) => self.ends[i].reported = self.ends[i].used,
            Event::SidecarKilled(i) => self.ends[i].up_since.clear(),
            Event::Hub => self.hub(),
            Event::Asked => self.requests += 1,
            Event::Time(seconds) => self.now += seconds,
        }
    }

    /// Probes come back of what is open at both ends.
    fn look(&mut self, i: usize) {
        let both = |g: &Generation| self.ends.iter().all(|end| end.open.contains(g));
        let up: Vec<Generation> = self.ends[i].open.iter().copied().filter(both).collect();
        let (now, end) = (self.now, &mut self.ends[i]);
        end.up_since.retain(|(g, _)| up.contains(g));
        for generation in up {
            if !end.up_since.iter().any(|(g, _)| *g == generation) {
                end.up_since.push((generation, now));
            }
        }
        let up_for = |g: Generation| {
            let since = end.up_since.iter().find(|(up, _)| *up == g);
            since.map(|(_, at)| Duration::from_secs(now - at))
        };
        let seen: Vec<Seen> =
            end.open.iter().map(|g| Seen { generation: *g, up_for: up_for(*g) }).collect();
        end.used = choose(&seen, end.used);
    }

    fn hub(&mut self) {
        let request = (self.requests > 0).then(|| self.requests.to_string());
        let moved = self.ends.iter().all(|end| end.reported == self.keys.next);
        let demand = Demand { request: request.as_deref(), moved, ..Demand::default() };
        let now = i64::try_from(self.now).unwrap();
        self.keys = self.keys.step(&demand, now);
    }

    /// Each end sends by what both have open.
    fn carries(&self) -> bool {
        let open = |g: Generation| self.ends.iter().all(|end| end.open.contains(&g));
        self.ends.iter().all(|end| end.used.is_some_and(open))
    }
}

proptest! {
    #[test]
    fn each_end_sends_where_the_other_listens(events in prop::collection::vec(event(), 0..400)) {
        let mut world = World::new();
        for event in events {
            world.happen(event);
            prop_assert!(world.carries(), "after {event:?}: {world:?}");
            prop_assert!(world.ends.iter().all(|end| end.open.len() <= 2));
        }
    }

    #[test]
    fn what_was_asked_for_comes_when_nothing_is_lost_any_more(
        events in prop::collection::vec(event(), 0..200),
    ) {
        let mut world = World::new();
        for event in events {
            world.happen(event);
        }
        world.happen(Event::Asked);
        let before = world.keys.generation;
        for _ in 0..60 {
            for event in [Event::Hub, Event::Told(0), Event::Told(1), Event::Mounted(0),
                Event::Mounted(1), Event::Probed(0), Event::Probed(1), Event::Time(1),
                Event::Reported(0), Event::Reported(1)]
            {
                world.happen(event);
                prop_assert!(world.carries());
            }
        }
        prop_assert!(world.keys.generation > before && world.keys.next.is_none());
    }
}
