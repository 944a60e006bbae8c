//! Standard NetworkPolicies of a cluster's namespace hold on the slice's NICs, for peers in all
//! clusters.

use anyhow::{Result, ensure};
use serde_json::json;
use slicewire_tests::world::{World, not_yet};

use super::{EAST, FAR, settings};

const WEST_WEB: (&str, &str, &str) = ("west", "shop", "web");
const WEST_FAR: (&str, &str, &str) = ("west", "shop", "far");

/// One in east lets only friends in, a label that no SlicePolicy selects on.
pub(crate) fn standard(world: &mut World) -> Result<String> {
    let web = world.addresses("east", "shop", "web", "blue")?;
    for from in [FAR, WEST_WEB, WEST_FAR] {
        web.iter().try_for_each(|to| world.reaches(from, *to, 20))?;
    }
    settings(world, &json!({"policy": {"applyNetworkPolicies": true}}))?;
    world.apply("east", &friends())?;
    for from in [FAR, WEST_WEB, WEST_FAR] {
        web.iter().try_for_each(|to| cut_off(world, from, *to))?;
    }
    // A friend in another cluster, and one on another node of the same.
    for (cluster, from) in [("west", WEST_FAR), ("east", FAR)] {
        world.k(cluster, "-n shop label pod far role=friend")?;
        web.iter().try_for_each(|to| world.reaches(from, *to, 20))?;
    }
    for to in &web {
        ensure!(!world.reachable(WEST_WEB, *to), "west's web is no friend and reaches {to}");
    }
    // Whom it selects is let in only: nobody else is concerned.
    for to in world.addresses("west", "shop", "web", "blue")? {
        world.reaches(EAST, to, 10)?;
        world.reaches(FAR, to, 10)?;
    }
    world.k("west", "-n shop label pod far role-")?;
    cut_off(world, WEST_FAR, web[0])?;
    world.reaches(FAR, web[0], 10)?;

    world.k("east", "-n shop delete networkpolicy friends")?;
    world.k("east", "-n shop label pod far role-")?;
    for from in [FAR, WEST_WEB, WEST_FAR] {
        world.reaches(from, web[0], 20)?;
    }
    settings(world, &json!({"policy": {"applyNetworkPolicies": false}}))?;
    Ok("only friends reached east's web, also from west, by a label that no SlicePolicy selects on; it came and went with the label".to_owned())
}

fn friends() -> String {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "friends", "namespace": "shop"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "web"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"role": "friend"}}}]}],
        },
    })
    .to_string()
}

fn cut_off(world: &World, from: (&str, &str, &str), to: std::net::IpAddr) -> Result<()> {
    World::wait(&format!("{from:?} reaches {to} no more"), 20, || {
        if world.reachable(from, to) { not_yet("it does") } else { Ok(()) }
    })
}
