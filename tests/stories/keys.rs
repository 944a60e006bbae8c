//! New keys for a slice's gateways, under traffic.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use slicewire_tests::world::World;

const EAST: (&str, &str, &str) = ("east", "shop", "web");
const WEST: (&str, &str, &str) = ("west", "shop", "web");
const SECRET: &str = "-n slicewire-system secret sw-gw-blue-keys";

/// How long a renewal may take, in seconds: nodes bring a changed Secret into a pod within two
/// minutes.
const LONGEST: u32 = 300;

/// Renews keys by hand while traffic passes in both directions: nothing may be lost, nothing old
/// may be left, and the hub may hold nothing secret.
pub(crate) fn keys(world: &mut World) -> Result<String> {
    let there = world.addresses("west", "shop", "web", "blue")?[0];
    let back = world.addresses("east", "shop", "web", "blue")?[0];
    world.reaches(EAST, there, 20)?;
    let before = public_keys(world)?;
    let generation = generation(world)?;
    let flows =
        [world.traffic(EAST, WEST, there, LONGEST)?, world.traffic(WEST, EAST, back, LONGEST)?];
    let begun = Instant::now();
    sleep(Duration::from_secs(2));
    let (hub, wait) = (world.kubeconfig("hub"), LONGEST.to_string());
    let how = ["--project", "demo", "--kubeconfig", &hub, "--timeout", &wait];
    world.slicectl(&[&["rotate-keys", "blue"][..], &how[..]].concat())?;
    let took = begun.elapsed().as_secs();
    for flow in flows {
        let lost = flow.end(world)?;
        ensure!(lost == 0, "{lost} pings lost while keys were renewed");
    }
    ensure!(self::generation(world)? == generation + 1, "the generation did not move by one");
    let after = public_keys(world)?;
    ensure!(before.iter().all(|key| !after.contains(key)), "an old key is still used");
    World::wait("every tunnel has a pre-shared key", 30, || preshared(world))?;
    nothing_old(world, generation)?;
    nothing_secret(world)?;
    Ok(format!("renewed in {took} s; no ping lost in either direction, no stream broken"))
}

fn gateways(world: &World) -> Result<Vec<Value>> {
    let all = world.get("hub", "workergateways -A")?;
    let items = all["items"].as_array().cloned().unwrap_or_default();
    Ok(items.into_iter().filter(|g| g["metadata"]["name"] == "blue").collect())
}

fn generation(world: &World) -> Result<u64> {
    let config = world.get("hub", "-n slicewire-demo sliceconfig blue")?;
    Ok(config["status"]["keys"]["generation"].as_u64().unwrap_or(0))
}

fn public_keys(world: &World) -> Result<Vec<String>> {
    let lanes = gateways(world)?
        .into_iter()
        .flat_map(|g| g["status"]["lanes"].as_array().cloned().unwrap_or_default());
    let keys: Vec<String> =
        lanes.filter_map(|l| l["publicKey"].as_str().map(str::to_owned)).collect();
    ensure!(keys.len() >= 2, "gateways have published {} keys", keys.len());
    Ok(keys)
}

fn preshared(world: &World) -> Result<()> {
    let config = world.get("hub", "-n slicewire-demo sliceconfig blue")?;
    let said = config["status"]["keys"]["preshared"].as_str().unwrap_or_default().to_owned();
    let (with, of) = said.split_once('/').context("nothing is told of pre-shared keys")?;
    ensure!(with == of && with != "0", "{said} ends of tunnels have a pre-shared key");
    Ok(())
}

/// Private keys of the generation before are gone, and what the exchange was made of, too.
fn nothing_old(world: &World, old: u64) -> Result<()> {
    for cluster in ["east", "west"] {
        World::wait("the old keys are gone", 30, || {
            let secret = world.get(cluster, SECRET)?;
            let entries: Vec<String> =
                secret["data"].as_object().into_iter().flatten().map(|(k, _)| k.clone()).collect();
            let gone = match old {
                0 => entries.iter().all(|e| e.contains("-generation-")),
                _ => entries.iter().all(|e| !e.contains(&format!("-generation-{old}"))),
            };
            ensure!(gone, "{cluster} still has keys {entries:?}");
            let name = "-n slicewire-system get secret sw-gw-blue-exchange";
            ensure!(world.k(cluster, name).is_err(), "{cluster} still has the exchange's Secret");
            Ok(())
        })?;
    }
    Ok(())
}

/// No entry of the clusters' Secrets, private or pre-shared, is in any object of the hub's.
fn nothing_secret(world: &World) -> Result<()> {
    let kinds = "workergateways,workerslices,sliceconfigs,clusters";
    let told = world.k("hub", &format!("get {kinds} -A -o json"))?;
    for cluster in ["east", "west"] {
        let secret = world.get(cluster, SECRET)?;
        let data = secret["data"].as_object().cloned().unwrap_or_default();
        ensure!(!data.is_empty(), "{cluster} has no keys");
        for (entry, value) in &data {
            let text = STANDARD.decode(value.as_str().unwrap_or_default())?;
            let text = String::from_utf8(text)?;
            let word = text.split_whitespace().last().context("an empty key")?.to_owned();
            ensure!(word.len() >= 40, "{entry} is no key");
            ensure!(!told.contains(&word), "the hub holds {cluster}'s {entry}");
        }
    }
    Ok(())
}
