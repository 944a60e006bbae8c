//! Who may listen to a gateway, and what happens to those who may when certificates change.

use std::net::IpAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use slicewire_tests::world::{World, not_yet};

const DAEMON: &str = "slicewire-netop-daemon-rpc";
const GATEWAY: &str = "sw-gw-blue-rpc";
const AUTHORITY: &str = "slicewire-rpc-authority";
const CALL: &str =
    "blue.gateway.slicewire.internal:5580/slicewire.gateway.v1.RouteService/WatchRoutes";
/// A request without fields, as gRPC frames it.
const EMPTY: &str = r"printf '\0\0\0\0\0'";

pub(crate) fn certificates(world: &mut World) -> Result<String> {
    let to = world.addresses("west", "shop", "web", "blue")?[0];
    world.reaches(("east", "shop", "web"), to, 20)?;
    let gateway = gateway(world)?;
    let (node, server) = (secret(world, "west", DAEMON)?, secret(world, "west", GATEWAY)?);
    let stranger = secret(world, "east", DAEMON)?;
    let told = listen(world, gateway, "https", Some(&node), &node)?;
    ensure!(told == "200", "a node is turned away: {told}");
    for (who, scheme, shown) in [
        ("one without TLS", "http", None),
        ("one without a certificate", "https", None),
        ("a gateway", "https", Some(&server)),
        ("a node of another cluster", "https", Some(&stranger)),
    ] {
        let told = listen(world, gateway, scheme, shown, &node)?;
        ensure!(told == "000", "{who} was answered by a gateway: {told}");
    }

    let traffic = world.traffic(("east", "shop", "web"), ("west", "shop", "web"), to, 10)?;
    sleep(Duration::from_secs(1));
    let begun = Instant::now();
    world
        .k("west", &format!("-n slicewire-system delete secret {AUTHORITY} {DAEMON} {GATEWAY}"))?;
    let new = World::wait("there are new certificates", 20, || {
        let new = secret(world, "west", DAEMON)?;
        secret(world, "west", GATEWAY)?;
        if new["ca.crt"] == node["ca.crt"] { not_yet("still the old one") } else { Ok(new) }
    })?;
    let made = begun.elapsed();
    let lost = traffic.lost()?;
    ensure!(lost == 0, "{lost} pings lost while the certificates were replaced");
    World::wait("the gateway has its new certificate and trusts the new authority", 150, || {
        let told = listen(world, gateway, "https", Some(&new), &new)?;
        if told == "200" { Ok(()) } else { not_yet(told) }
    })?;
    let used = begun.elapsed();
    let told = listen(world, gateway, "https", Some(&node), &new)?;
    ensure!(told == "000", "the deleted authority is still trusted: {told}");
    world.reaches(("east", "shop", "web"), to, 20)?;
    Ok(format!(
        "strangers are turned away; lost certificates are made anew in {:.1} s and in use after {:.0} s, no ping lost",
        made.as_secs_f64(),
        used.as_secs_f64()
    ))
}

fn gateway(world: &World) -> Result<IpAddr> {
    let pod = world.get("west", "-n slicewire-system pod sw-gw-blue-0")?;
    Ok(pod["status"]["podIP"].as_str().context("the gateway has no address")?.parse()?)
}

/// A Secret's entries, in base64.
fn secret(world: &World, cluster: &str, name: &str) -> Result<Value> {
    let data = world.get(cluster, &format!("-n slicewire-system secret {name}"))?["data"].take();
    ensure!(data["tls.crt"].is_string(), "Secret {name} is empty");
    Ok(data)
}

/// Asks a gateway for its routes from a node of its cluster; the HTTP status, `000` for none.
fn listen(
    world: &World,
    gateway: IpAddr,
    scheme: &str,
    shown: Option<&Value>,
    trusted: &Value,
) -> Result<String> {
    let entry = |of: &Value, name: &str| of[name].as_str().unwrap_or_default().to_owned();
    let mut script = "d=$(mktemp -d); trap 'rm -rf $d' EXIT; ".to_owned();
    let mut file = |name: &str, text: String| {
        script.push_str(&format!("echo {text} | base64 -d > $d/{name}; "));
    };
    file("ca", entry(trusted, "ca.crt"));
    let mut show = "";
    if let Some(shown) = shown {
        file("crt", entry(shown, "tls.crt"));
        file("key", entry(shown, "tls.key"));
        show = "--cert $d/crt --key $d/key";
    }
    let http = if scheme == "http" { "--http2-prior-knowledge" } else { "--http2" };
    let name = CALL.split_once('/').map_or(CALL, |(name, _)| name);
    script.push_str(&format!(
        "{EMPTY} | curl -s -m 3 {http} --cacert $d/ca {show} --resolve {name}:{gateway} \
         -H 'content-type: application/grpc' -H 'te: trailers' --data-binary @- \
         -o /dev/null -w '%{{http_code}}' {scheme}://{CALL} || true"
    ));
    let said = world.testbed.exec("west-1", &["sh", "-c", &script])?;
    Ok(String::from_utf8_lossy(&said.stdout).trim().to_owned())
}
