//! One namespace: rules, errors, and that what others made is neither listed nor touched.

use std::process::Command;

use slicewire_core::prefix::Family;
use slicewire_kernel::{
    Address, LinkChange, LinkEnd, Neighbour, NextHops, Ns, NsId, OnError, Op, Route, Rule,
};

use crate::lab::{Lab, inside, ip, net};

async fn with_cable(lab: &mut Lab) -> Ns {
    let ns = lab.ns("x").await;
    let cable = Op::AddVeth {
        end: LinkEnd::new("c0").up(),
        peer_ns: ns.id().clone(),
        peer: LinkEnd::new("c1").up(),
    };
    ns.sequence(vec![cable]).await.unwrap();
    ns
}

fn rule(family: Family, priority: u32, iif: Option<&str>, table: u32) -> Rule {
    Rule { priority, family, iif: iif.map(str::to_owned), table }
}

/// Runs `ip` inside the namespace: somebody else's hand.
fn foreign_ip(id: &NsId, args: &str) -> String {
    let args: Vec<String> = args.split(' ').map(str::to_owned).collect();
    let output = inside(id, move || Command::new("ip").args(&args).output()).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn rules_come_once_and_go() {
    let mut lab = Lab::new("rules");
    let ns = with_cable(&mut lab).await;
    let before = foreign_ip(ns.id(), "rule");
    let rules = [
        rule(Family::V4, 8300, Some("c0"), 51),
        rule(Family::V6, 8300, Some("c0"), 51),
        rule(Family::V4, 8301, Some("notyet"), 70_000),
        rule(Family::V6, 8302, None, 52),
    ];
    for _ in 0..2 {
        ns.sequence(rules.clone().map(Op::AddRule).to_vec()).await.unwrap();
    }
    assert_eq!(ns.rules().await.unwrap(), rules.clone().into());
    for _ in 0..2 {
        ns.sequence(rules.clone().map(Op::DeleteRule).to_vec()).await.unwrap();
    }
    assert!(ns.rules().await.unwrap().is_empty());
    assert_eq!(foreign_ip(ns.id(), "rule"), before);
}

#[tokio::test]
async fn what_others_made_is_not_seen_and_not_touched() {
    let mut lab = Lab::new("foreign");
    let ns = with_cable(&mut lab).await;
    for made in ["route add 10.9.0.0/16 dev c0", "-6 route add fd09::/48 dev c0"] {
        foreign_ip(ns.id(), made);
    }
    foreign_ip(ns.id(), "rule add pref 100 iif c0 lookup 7");
    // The kernel's own routes come with the carrier, in their own time.
    let listing = || {
        ["route", "-6 route", "rule"].map(|what| {
            let all = foreign_ip(ns.id(), what);
            let kept = all.lines().filter(|line| !line.contains("proto kernel"));
            kept.map(|line| line.replace(" linkdown", "").trim_end().to_owned()).collect::<Vec<_>>()
        })
    };
    let before = listing();
    let state = ns.observe().await.unwrap();
    assert!(state.routes.is_empty() && state.rules.is_empty(), "{state:?}");

    let main = slicewire_kernel::MAIN_TABLE;
    ns.sequence(vec![
        Op::DeleteRoute { table: main, dst: net("10.9.0.0/16") },
        Op::DeleteRoute { table: main, dst: net("fd09::/48") },
        Op::DeleteRule(rule(Family::V4, 100, Some("c0"), 7)),
    ])
    .await
    .unwrap();
    assert_eq!(listing(), before);
}

#[tokio::test]
async fn errors_say_what_and_where_and_the_rest_is_done() {
    let mut lab = Lab::new("errors");
    let ns = with_cable(&mut lab).await;
    let ops = vec![
        Op::ReplaceRoute(Route::new(net("10.1.0.0/16"), NextHops::dev("nic7"))),
        Op::ReplaceAddress(Address::host("c0", ip("10.1.0.1"))),
        Op::SetLink { dev: "c0".to_owned(), change: LinkChange::mtu(1) },
        Op::SetSysctl { key: "ipv4/no_such_thing".to_owned(), value: "1".to_owned() },
    ];
    let errors = ns.execute(ops.clone(), OnError::GoOn).await.unwrap_err();
    let reasons: Vec<_> = errors.0.iter().map(slicewire_kernel::Error::reason).collect();
    assert_eq!(reasons, ["NoSuchDevice", "Invalid", "NotFound"], "{errors}");
    // The kernel's own words, not only its number.
    let detail = &errors.0[1].detail;
    assert!(detail.contains("mtu"), "{detail:?}");
    let text = errors.0[0].to_string();
    let name = lab.name("x");
    for part in ["replace route", "10.1.0.0/16", name.as_str()] {
        assert!(text.contains(part), "{text:?} lacks {part:?}");
    }
    let address = Address::host("c0", ip("10.1.0.1"));
    assert!(ns.addresses().await.unwrap().contains(&address));

    let delete = vec![Op::DeleteAddress(address.clone()), Op::DeleteAddress(address.clone())];
    ns.sequence(delete).await.unwrap();
    let errors = ns.execute(ops, OnError::Stop).await.unwrap_err();
    assert_eq!(errors.0.len(), 1);
    assert!(!ns.addresses().await.unwrap().contains(&address));
}

#[tokio::test]
async fn devices_change_and_deletions_repeat() {
    let mut lab = Lab::new("change");
    let ns = with_cable(&mut lab).await;
    let other = lab.ns("y").await;
    let change = LinkChange {
        up: Some(false),
        mtu: Some(1300),
        mac: Some([2, 0, 0, 0, 9, 9].into()),
        alias: Some("slicewire/blue/uid".to_owned()),
        rename: Some("c9".to_owned()),
        ..LinkChange::default()
    };
    ns.sequence(vec![Op::SetLink { dev: "c0".to_owned(), change }]).await.unwrap();
    let link = ns.observe().await.unwrap().link("c9").unwrap().clone();
    assert_eq!((link.mtu, link.up, link.mac), (1300, false, Some([2, 0, 0, 0, 9, 9].into())));
    assert_eq!(link.alias.as_deref(), Some("slicewire/blue/uid"));

    let change = LinkChange { move_to: Some(other.id().clone()), ..LinkChange::alias("") };
    ns.sequence(vec![Op::SetLink { dev: "c9".to_owned(), change }]).await.unwrap();
    let moved = other.observe().await.unwrap().link("c9").unwrap().clone();
    assert_eq!(moved.alias, None);

    let neighbour =
        Neighbour { dev: "c1".to_owned(), addr: ip("169.254.1.1"), mac: [2, 0, 0, 0, 9, 9].into() };
    ns.sequence(vec![Op::ReplaceNeighbour(neighbour.clone())]).await.unwrap();
    assert_eq!(ns.neighbours().await.unwrap(), [neighbour.clone()].into());
    // Another MAC address takes permanent neighbours away, too.
    let change = LinkChange { mac: Some([2, 0, 0, 0, 8, 8].into()), ..LinkChange::default() };
    ns.sequence(vec![Op::SetLink { dev: "c1".to_owned(), change }]).await.unwrap();
    assert!(ns.neighbours().await.unwrap().is_empty());
    ns.sequence(vec![Op::ReplaceNeighbour(neighbour.clone())]).await.unwrap();
    let Neighbour { dev, addr, .. } = neighbour;
    let mut delete = vec![Op::DeleteNeighbour { dev, addr }, Op::DeleteLink { dev: "c1".into() }];
    delete.extend(delete.clone());
    ns.sequence(delete).await.unwrap();
    assert!(ns.neighbours().await.unwrap().is_empty());
}
