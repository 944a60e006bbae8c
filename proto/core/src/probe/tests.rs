use proptest::prelude::*;

use super::*;

const SIZES: Sizes = Sizes { headers: 28, device_mtu: 1420 };

/// A path with a delay, a largest packet, and answers that come or not.
struct Path {
    one_way: Duration,
    mtu: Box<dyn Fn(Duration) -> u16>,
    works: fn(Duration) -> bool,
    /// Says at once when a packet is too big, as a local device does.
    refuses: bool,
}

impl Default for Path {
    fn default() -> Self {
        Self {
            one_way: Duration::from_millis(5),
            mtu: Box::new(|_| u16::MAX),
            works: |_| true,
            refuses: false,
        }
    }
}

/// Drives a prober over a path as its shell would; returns the events with their times, and how
/// many datagrams were sent.
fn drive(prober: &mut Prober, path: &Path, until: Duration) -> (Vec<(Duration, Event)>, usize) {
    let mut now = Duration::ZERO;
    let mut arrivals: Vec<(Duration, Vec<u8>)> = Vec::new();
    let mut events = Vec::new();
    let mut sent = 0;
    while now < until {
        for (_, payload) in arrivals.extract_if(.., |(at, _)| *at <= now) {
            events.extend(prober.handle(&payload, now).map(|e| (now, e)));
        }
        events.extend(prober.expire(now).map(|e| (now, e)));
        while let Some(payload) = prober.poll(now) {
            sent += 1;
            let size = payload.len() + usize::from(SIZES.headers);
            if size > usize::from((path.mtu)(now)) {
                if path.refuses {
                    events.extend(prober.refused(&payload, now).map(|e| (now, e)));
                }
            } else if (path.works)(now)
                && let Some(reply) = answer(&payload)
            {
                arrivals.push((now + path.one_way * 2, reply));
            }
        }
        let next = arrivals.iter().map(|(at, _)| *at).fold(prober.deadline(), Duration::min);
        assert!(next > now, "would spin at {now:?}");
        now = next;
    }
    (events, sent)
}

fn mtus(events: &[(Duration, Event)]) -> Vec<u16> {
    let mtu = |e: &Event| if let Event::PathMtu(mtu) = e { Some(*mtu) } else { None };
    events.iter().filter_map(|(_, e)| mtu(e)).collect()
}

fn turns(events: &[(Duration, Event)]) -> Vec<(Duration, Transition)> {
    let turn = |(at, e): &(Duration, Event)| match e {
        Event::Tunnel(t) => Some((*at, *t)),
        Event::PathMtu(_) => None,
    };
    events.iter().filter_map(turn).collect()
}

#[test]
fn a_tunnel_is_up_and_measured_after_two_round_trips() {
    let mut prober = Prober::new(7, SIZES, Duration::ZERO);
    let (events, sent) = drive(&mut prober, &Path::default(), Duration::from_secs(10));
    let ms = Duration::from_millis;
    assert_eq!(events, [(ms(10), Event::Tunnel(Transition::Up)), (ms(20), Event::PathMtu(1420))]);
    assert_eq!(prober.health().rtt, Some(ms(10)));
    assert!((100..110).contains(&sent), "ten a second and little else, not {sent}");
}

#[test]
fn a_tunnel_that_dies_and_comes_back_is_noticed_both_times() {
    let path = Path {
        works: |now| !(Duration::from_secs(10)..Duration::from_secs(20)).contains(&now),
        ..Path::default()
    };
    let mut prober = Prober::new(7, SIZES, Duration::ZERO);
    let (events, _) = drive(&mut prober, &path, Duration::from_secs(30));
    let turns = turns(&events);
    assert_eq!(turns.len(), 3, "{turns:?}");
    assert!(turns[1].0 - Duration::from_secs(10) <= Duration::from_millis(450), "{turns:?}");
    assert!(turns[2].0 - Duration::from_secs(20) <= Duration::from_millis(150), "{turns:?}");
    assert_eq!(mtus(&events), [1420], "the same size again is no news");
}

#[test]
fn a_hopeless_tunnel_is_probed_less_often() {
    let path = Path { works: |_| false, ..Path::default() };
    let mut prober = Prober::new(7, SIZES, Duration::ZERO);
    let (events, sent) = drive(&mut prober, &path, Duration::from_secs(160));
    assert_eq!(events, []);
    assert!((790..=810).contains(&sent), "600 in the first minute, then two a second: {sent}");
}

#[test]
fn a_path_that_begins_to_swallow_large_packets_is_measured_again() {
    let path = Path {
        mtu: Box::new(|now| if now < Duration::from_secs(7) { u16::MAX } else { 1333 }),
        ..Path::default()
    };
    let mut prober = Prober::new(7, SIZES, Duration::ZERO);
    let (events, _) = drive(&mut prober, &path, Duration::from_secs(20));
    assert_eq!(mtus(&events), [1420, 1333]);
    assert_eq!(turns(&events).len(), 1, "small packets still pass: {events:?}");
}

#[test]
fn answers_of_another_session_or_kind_count_for_nothing() {
    let mut prober = Prober::new(7, SIZES, Duration::ZERO);
    let probe = prober.poll(Duration::ZERO).unwrap();
    let mut other = answer(&probe).unwrap();
    other[15] ^= 1;
    assert_eq!(prober.handle(&other, Duration::ZERO), None);
    assert_eq!(prober.handle(&probe, Duration::ZERO), None, "its own probe sent back");
    assert!(!prober.health().up);
}

#[test]
fn a_responder_answers_probes_only_and_never_with_more() {
    let mut prober = Prober::new(7, SIZES, Duration::ZERO);
    let probe = prober.poll(Duration::ZERO).unwrap();
    let reply = answer(&probe).unwrap();
    assert!(reply.len() <= probe.len());
    assert_eq!(answer(&reply), None, "two responders must not answer each other for ever");
    assert_eq!(answer(b""), None);
    assert_eq!(answer(&probe[..31]), None);
}

#[test]
fn a_device_smaller_than_the_floor_is_its_own_floor() {
    let sizes = Sizes { headers: 28, device_mtu: 600 };
    let mut prober = Prober::new(7, sizes, Duration::ZERO);
    let (events, _) = drive(&mut prober, &Path::default(), Duration::from_secs(2));
    assert_eq!(mtus(&events), [600]);
}

#[test]
fn nothing_is_known_when_not_even_the_floor_passes() {
    let path = Path { mtu: Box::new(|_| 1000), ..Path::default() };
    let mut prober = Prober::new(7, SIZES, Duration::ZERO);
    let (events, _) = drive(&mut prober, &path, Duration::from_secs(30));
    assert!(prober.health().up, "small probes pass");
    assert_eq!((mtus(&events), prober.path_mtu()), (vec![], None));
}

#[test]
fn a_changed_device_is_measured_again() {
    let mut prober = Prober::new(7, SIZES, Duration::ZERO);
    drive(&mut prober, &Path::default(), Duration::from_secs(1));
    let now = Duration::from_secs(1);
    prober.resize(Sizes { device_mtu: 1300, ..SIZES }, now);
    let trial = std::iter::from_fn(|| prober.poll(now)).last().unwrap();
    assert_eq!(trial.len(), 1300 - 28);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// The search finds every size between the floor and the device's MTU, silent or told.
    #[test]
    fn any_path_mtu_is_found(mtu in 1280u16..=1420, refuses: bool) {
        let mut prober = Prober::new(7, SIZES, Duration::ZERO);
        let path = Path { mtu: Box::new(move |_| mtu), refuses, ..Path::default() };
        let (events, _) = drive(&mut prober, &path, Duration::from_secs(20));
        prop_assert_eq!(mtus(&events), vec![mtu]);
        prop_assert_eq!(prober.path_mtu(), Some(mtu));
    }

    /// Bytes from outside never panic, and are a message only if they can be said again.
    #[test]
    fn decoding_is_total(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        if let Some(message) = Message::decode(&bytes) {
            prop_assert_eq!(&message.encode(0)[..], &bytes[..wire::LENGTH]);
        }
        answer(&bytes);
    }
}
