//! A renewal of keys, from a person's request to the old keys' end.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use slicewire_api::condition::KEYS_CURRENT;
use slicewire_api::labels::ROTATE_KEYS;
use slicewire_api::{Encapsulated, OwnExchange, PublishedKey, SliceKeys, TunnelStatus};

use super::*;

fn kem(byte: u8) -> String {
    STANDARD.encode([byte; 1184])
}

fn sealed(byte: u8) -> String {
    STANDARD.encode([byte; 1088])
}

/// The state at a second, planned and carried out until nothing is left to do.
fn settle_at(fake: &mut Fake, second: i64) {
    for _ in 0..20 {
        let observed = observe(fake).unwrap();
        let validated = validate::validate(&observed);
        let now = Timestamp::from_second(second).unwrap();
        let changes = plan::plan(&observed, &validated, now).steps.concat();
        if changes.is_empty() {
            return;
        }
        for change in changes {
            fake.carry_out(&change).unwrap();
        }
    }
    let observed = observe(fake).unwrap();
    let validated = validate::validate(&observed);
    let now = Timestamp::from_second(second).unwrap();
    panic!("no end: {:?}", plan::plan(&observed, &validated, now).steps.concat());
}

fn keys(fake: &Fake) -> SliceKeys {
    fake.get::<SliceConfig>(PROJECT, "blue").unwrap().status.clone().unwrap().keys.unwrap()
}

fn ask(fake: &mut Fake, request: &str) {
    let mut config = (*fake.get::<SliceConfig>(PROJECT, "blue").unwrap()).clone();
    let annotations = config.metadata.annotations.get_or_insert_default();
    annotations.insert(ROTATE_KEYS.to_owned(), request.to_owned());
    fake.put(&config);
}

/// A cluster's report: keys of the current generation, the next one's beside them, and how its one
/// tunnel is sent by.
fn report(fake: &mut Fake, cluster: &str, byte: u8, peer: &str, by: u64) -> WorkerGatewayStatus {
    let spec = gateway(fake, cluster).spec;
    let public = |generation: u64| key(byte + 10 * u8::try_from(generation).unwrap());
    let next = spec.next_generation.map(|generation| PublishedKey {
        generation,
        public_key: public(generation),
        endpoints: vec![format!("192.0.2.{byte}:30001")],
    });
    let peers = spec.exchange.iter().map(|p| &p.cluster);
    let exchange = spec.next_generation.map(|generation| OwnExchange {
        generation,
        encapsulation_key: kem(byte),
        ciphertexts: peers
            .map(|p| Encapsulated { cluster: p.clone(), ciphertext: sealed(byte) })
            .collect(),
    });
    let tunnel = TunnelStatus {
        cluster: peer.into(),
        up: true,
        generation: Some(by),
        preshared_key: by > 0,
        ..TunnelStatus::default()
    };
    let lane = GatewayLaneStatus {
        public_key: Some(public(spec.generation)),
        generation: spec.generation,
        next,
        endpoints: vec![format!("192.0.2.{byte}:30000")],
        tunnels: vec![tunnel],
        ..GatewayLaneStatus::default()
    };
    let status = WorkerGatewayStatus { lanes: vec![lane], exchange, ..Default::default() };
    fake.report::<WorkerGateway>(&own(cluster), "blue", &status);
    status
}

fn both(fake: &mut Fake, by: u64) {
    report(fake, "east", 1, "west", by);
    report(fake, "west", 2, "east", by);
}

/// Two clusters with tunnels by generation 0.
fn running() -> Fake {
    let mut fake = world();
    settle(&mut fake);
    both(&mut fake, 0);
    settle_at(&mut fake, 1_000);
    fake
}

#[test]
fn keys_are_renewed_from_the_request_to_the_end_of_the_old_ones() {
    let mut fake = running();
    assert_eq!(gateway(&fake, "east").spec.generation, 0);
    ask(&mut fake, "a");
    settle_at(&mut fake, 2_000);
    assert_eq!((keys(&fake).generation, keys(&fake).next_generation), (0, Some(1)));
    assert_eq!(gateway(&fake, "east").spec.next_generation, Some(1));
    assert!(gateway(&fake, "east").spec.lanes[0].tunnels[0].next.is_none());

    both(&mut fake, 0);
    settle_at(&mut fake, 2_001);
    both(&mut fake, 0);
    settle_at(&mut fake, 2_002);
    let spec = gateway(&fake, "east").spec;
    let tunnel = &spec.lanes[0].tunnels[0];
    assert_eq!((&tunnel.public_key, tunnel.endpoints[0].as_str()), (&key(2), "192.0.2.2:30000"));
    let next = tunnel.next.as_ref().unwrap();
    assert_eq!((&next.public_key, next.endpoints[0].as_str()), (&key(12), "192.0.2.2:30001"));
    assert_eq!((spec.exchange.len(), spec.exchange[0].cluster.as_str()), (1, "west"));
    assert_eq!(spec.exchange[0].encapsulation_key, kem(2));
    assert_eq!(spec.exchange[0].ciphertext.as_ref(), Some(&sealed(2)));

    // One end sends by the new keys; that is not enough, however long.
    report(&mut fake, "east", 1, "west", 1);
    settle_at(&mut fake, 9_000);
    assert_eq!(keys(&fake).moved_at, None);
    report(&mut fake, "west", 2, "east", 1);
    settle_at(&mut fake, 9_001);
    assert!(keys(&fake).moved_at.is_some());
    settle_at(&mut fake, 9_010);
    assert_eq!(keys(&fake).next_generation, Some(1), "packets by the old ones are on their way");
    settle_at(&mut fake, 9_011);
    assert_eq!((keys(&fake).generation, keys(&fake).next_generation), (1, None));

    // The reports still are those of the renewal: the new keys are in them, as the next ones.
    let spec = gateway(&fake, "east").spec;
    assert_eq!((spec.generation, spec.next_generation, spec.exchange.len()), (1, None, 0));
    let tunnel = &spec.lanes[0].tunnels[0];
    assert_eq!((&tunnel.public_key, tunnel.endpoints[0].as_str()), (&key(12), "192.0.2.2:30001"));
    both(&mut fake, 1);
    settle_at(&mut fake, 9_500);
    assert_eq!(gateway(&fake, "east").spec.lanes[0].tunnels[0].public_key, key(12));
    assert_eq!(keys(&fake).request.as_deref(), Some("a"));
}

#[test]
fn tunnels_that_came_without_a_pre_shared_key_get_one_soon() {
    let mut fake = running();
    ask(&mut fake, "a");
    for second in [2_000, 2_001, 2_002] {
        settle_at(&mut fake, second);
        both(&mut fake, 0);
    }
    both(&mut fake, 1);
    settle_at(&mut fake, 3_000);
    settle_at(&mut fake, 3_010);
    both(&mut fake, 1);
    settle_at(&mut fake, 3_011);
    assert_eq!((keys(&fake).generation, keys(&fake).next_generation), (1, None));
    settle_at(&mut fake, 9_000);
    assert_eq!(keys(&fake).next_generation, None, "all have one");

    let without = |fake: &mut Fake, cluster: &str, byte: u8, peer: &str| {
        let mut status = report(fake, cluster, byte, peer, 1);
        status.lanes[0].tunnels[0].preshared_key = false;
        fake.report::<WorkerGateway>(&own(cluster), "blue", &status);
    };
    without(&mut fake, "west", 2, "east");
    settle_at(&mut fake, 9_001);
    assert_eq!(keys(&fake).next_generation, None, "one end alone is not believed");
    without(&mut fake, "east", 1, "west");
    settle_at(&mut fake, 9_002);
    assert_eq!(keys(&fake).next_generation, Some(2));
}

#[test]
fn what_is_waited_for_is_told_and_a_schedule_does_not_begin_without_tunnels() {
    let mut fake = running();
    ask(&mut fake, "a");
    settle_at(&mut fake, 2_000);
    report(&mut fake, "east", 1, "west", 0);
    settle_at(&mut fake, 2_001);
    let observed = observe(&fake).unwrap();
    let validated = validate::validate(&observed);
    let plan = plan::plan(&observed, &validated, Timestamp::from_second(2_002).unwrap());
    let fine: Outcome = Err(Vec::new());
    let told = status::status(&observed, &validated, &plan, &fine, Timestamp::UNIX_EPOCH);
    let said = told.conditions.iter().find(|c| c.type_ == KEYS_CURRENT).unwrap();
    assert_eq!((said.status.as_str(), said.reason.as_str()), ("False", "Renewing"));
    assert!(said.message.contains("west has published no keys yet"), "{}", said.message);
    assert!(!said.message.contains("east has"), "{}", said.message);
    assert_eq!(told.keys.unwrap().preshared.as_deref(), Some("0/2"));

    let mut fake = running();
    let mut config = (*fake.get::<SliceConfig>(PROJECT, "blue").unwrap()).clone();
    config.spec.gateways.key_rotation_interval = Some("720h".into());
    fake.put(&config);
    let mut down = report(&mut fake, "west", 2, "east", 0);
    down.lanes[0].tunnels[0].up = false;
    fake.report::<WorkerGateway>(&own("west"), "blue", &down);
    settle_at(&mut fake, 2_000);
    assert_eq!(gateway(&fake, "east").spec.next_generation, None);
    report(&mut fake, "west", 2, "east", 0);
    settle_at(&mut fake, 2_001);
    assert_eq!(gateway(&fake, "east").spec.next_generation, Some(1));

    config.spec.gateways.key_rotation_interval = Some("30m".into());
    let mut fake = running();
    fake.put(&config);
    let faults = validate::validate(&observe(&fake).unwrap()).unwrap_err();
    assert_eq!(faults[0].reason, "RotationInterval");
}

#[test]
fn what_a_member_says_for_the_exchange_has_no_effect_on_others() {
    let mut fake = running();
    ask(&mut fake, "a");
    settle_at(&mut fake, 2_000);
    both(&mut fake, 0);
    settle_at(&mut fake, 2_001);
    let good = report(&mut fake, "east", 1, "west", 0);
    // West takes east's next key for its own, and says what is no key and no ciphertext.
    let mut liar = report(&mut fake, "west", 2, "east", 0);
    settle_at(&mut fake, 2_002);
    let stolen = good.lanes[0].next.clone().unwrap().public_key;
    liar.lanes[0].next.as_mut().unwrap().public_key = stolen.clone();
    liar.exchange.as_mut().unwrap().ciphertexts = vec![
        Encapsulated { cluster: "east".into(), ciphertext: "AAAA".into() },
        Encapsulated { cluster: "north".into(), ciphertext: sealed(9) },
    ];
    fake.report::<WorkerGateway>(&own("west"), "blue", &liar);
    settle_at(&mut fake, 2_003);
    let (east, west) = (gateway(&fake, "east").spec, gateway(&fake, "west").spec);
    assert!(east.lanes[0].tunnels[0].next.is_none(), "no tunnel is made of another's key");
    assert_eq!(east.exchange[0].ciphertext, None);
    assert_eq!(west.lanes[0].tunnels[0].next.as_ref().unwrap().public_key, stolen);
    assert_eq!(west.exchange[0].encapsulation_key, kem(1));
    liar.exchange.as_mut().unwrap().encapsulation_key = "AAAA".into();
    fake.report::<WorkerGateway>(&own("west"), "blue", &liar);
    settle_at(&mut fake, 2_004);
    assert_eq!(gateway(&fake, "east").spec.exchange, []);
    assert_eq!(gateway(&fake, "east").spec.lanes[0].tunnels[0].public_key, key(2));
}

#[test]
fn a_cluster_of_the_release_before_keeps_its_tunnel_and_holds_the_renewal_up() {
    let mut fake = running();
    // As a worker that knows of no generations goes on reporting.
    let old = |fake: &mut Fake| publish(fake, "west", 2);
    old(&mut fake);
    ask(&mut fake, "a");
    settle_at(&mut fake, 2_000);
    report(&mut fake, "east", 1, "west", 0);
    old(&mut fake);
    settle_at(&mut fake, 2_001);
    let tunnel = gateway(&fake, "east").spec.lanes[0].tunnels[0].clone();
    assert_eq!((tunnel.public_key, tunnel.next), (key(2), None));
    settle_at(&mut fake, 9_000);
    assert_eq!((keys(&fake).generation, keys(&fake).next_generation), (0, Some(1)));
}
