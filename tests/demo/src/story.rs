//! What a slice does, on running pods.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use slicewire_testbed::process::wait_for;
use slicewire_testbed::wan::BRIDGE;

use crate::capture::{Capture, Census, census};
use crate::ceiling::ceiling;
use crate::clusters::{Demo, NAMESPACE, SLICE, WORKERS};
use crate::pods::Pod;
use crate::policy;
use crate::service;
use crate::show::{Evidence, Show};

/// Who takes part.
struct Cast<'a> {
    client: Pod<'a>,
    server: Pod<'a>,
    stranger: Pod<'a>,
}

/// Tells the story; every step that fails is shown, and those that do not need it go on.
///
/// # Errors
/// A step failed.
pub(crate) fn tell(demo: &Demo, show: &mut Show) -> Result<()> {
    let testbed = &demo.testbed;
    let cast = Cast {
        client: Pod::find(testbed, "east", NAMESPACE, "client")?,
        server: Pod::find(testbed, "west", NAMESPACE, "server")?,
        stranger: Pod::find(testbed, "east", "outside", "stranger")?,
    };
    let declared = Instant::now();
    show.step("kubectl apply the SliceConfig, label the namespace of the running pods", |_| {
        demo.testbed.apply("hub", &demo.example("sliceconfig.yaml")?)?;
        let label = format!("slicewire.dev/slice={SLICE}");
        for cluster in WORKERS {
            testbed.kubectl(cluster, &["label", "--overwrite", "namespace", NAMESPACE, &label])?;
        }
        Ok(((), format!("slice {SLICE} declared once, on the hub")))
    })?;
    show.step("a second NIC appears in the running pods", |evidence| appear(&cast, evidence))?;
    let server = cast.server.slice_addresses()?;
    let client = cast.client.slice_addresses()?;
    show.step("the first ping from east to west", |_| first_ping(&cast, &server, declared))?;
    let outcomes = [
        show.step("ping, IPv4 and IPv6", |evidence| ping(&cast, &server, evidence)),
        show.step("HTTP: the server sees the client's slice address", |evidence| {
            http(&cast, &server, &client, evidence)
        }),
        show.step("iperf3, while somebody listens between the clusters", |evidence| {
            listen(demo, &cast, &server, &client, evidence)
        }),
        show.step("a ceiling for the slice holds", |evidence| {
            let server = server.first().copied().context("the server has no slice address")?;
            ceiling(testbed, &cast.client, server, evidence)
        }),
        show.step("a pod outside the slice cannot reach it", |_| keep_out(&cast, &server)),
        show.step("a policy cuts one pair across the clusters", |evidence| {
            policy::cut(demo, &cast.client, &cast.server, evidence)
        }),
        show.step(
            "a Service by one name from both clusters, while one endpoint ends",
            |evidence| service::by_name(testbed, &cast.client, evidence),
        ),
        show.step("the pods have not been restarted", |_| {
            cast.client.same_as_ever()?;
            cast.server.same_as_ever()?;
            Ok(((), "same pods, no container started again".to_owned()))
        }),
        show.step("slicectl status", |evidence| status(demo, evidence)),
    ];
    outcomes.into_iter().collect()
}

fn appear(cast: &Cast<'_>, evidence: &Evidence) -> Result<((), String)> {
    let begin = Instant::now();
    for pod in [&cast.client, &cast.server] {
        pod.wait_for_nic(SLICE)?;
    }
    let took = begin.elapsed();
    evidence.quote(&cast.client.run(&["ip", "addr", "show", "slice0"])?);
    for family in ["-4", "-6"] {
        evidence.quote(&cast.client.run(&["ip", family, "route", "show", "dev", "slice0"])?);
    }
    Ok(((), format!("there after {:.1} s, without a restart", took.as_secs_f64())))
}

fn first_ping(cast: &Cast<'_>, server: &[IpAddr], declared: Instant) -> Result<((), String)> {
    let target = server.first().context("the server has no slice address")?.to_string();
    wait_for("the first answer over the slice", Duration::from_secs(60), || {
        cast.client.run(&["ping", "-c", "1", "-W", "1", &target]).is_ok()
    })?;
    let took = declared.elapsed().as_secs_f64();
    Ok(((), format!("{target} answers {took:.1} s after the slice was declared")))
}

fn ping(cast: &Cast<'_>, server: &[IpAddr], evidence: &Evidence) -> Result<((), String)> {
    let mut said = Vec::new();
    for address in server {
        let target = address.to_string();
        let printed = cast.client.run(&["ping", "-c", "5", "-i", "0.2", "-W", "2", &target])?;
        evidence.quote(printed.lines().last().unwrap_or_default());
        if !printed.contains(" 0% packet loss") {
            bail!("packets to {target} were lost:\n{printed}");
        }
        said.push(target);
    }
    Ok(((), format!("5 of 5 answered by {}", said.join(" and "))))
}

fn http(
    cast: &Cast<'_>,
    server: &[IpAddr],
    client: &[IpAddr],
    evidence: &Evidence,
) -> Result<((), String)> {
    for (server, client) in server.iter().zip(client) {
        let url = match server {
            IpAddr::V4(a) => format!("http://{a}:8080/hello"),
            IpAddr::V6(a) => format!("http://[{a}]:8080/hello"),
        };
        let answer = cast.client.run(&["curl", "-sS", "--max-time", "5", &url])?;
        evidence.quote(&answer);
        let seen = answer.lines().find_map(|l| l.strip_prefix("client=")).unwrap_or_default();
        if seen.parse() != Ok(*client) {
            bail!("the server saw {seen:?}, not {client}");
        }
    }
    Ok(((), "no address translation on the way".to_owned()))
}

/// Sends a few seconds of TCP and looks at what crosses between the clusters meanwhile.
fn listen(
    demo: &Demo,
    cast: &Cast<'_>,
    server: &[IpAddr],
    client: &[IpAddr],
    evidence: &Evidence,
) -> Result<((), String)> {
    let (server, client) = (server.first(), client.first());
    let (Some(server), Some(client)) = (server.copied(), client.copied()) else {
        bail!("a pod has no slice address");
    };
    let plan = &demo.testbed.plan;
    let file = demo.root.join("target/demo.pcap");
    let target = server.to_string();
    let capture = Capture::start(&plan.wan_netns(), BRIDGE, &file)?;
    let measured = cast
        .client
        .run(&["iperf3", "-c", &target, "-t", "3", "-J"])
        .and_then(|json| Ok(serde_json::from_str::<Value>(&json)?));
    let packets = capture.stop()?;
    let measured = measured?;
    let rate = measured["end"]["sum_received"]["bits_per_second"].as_f64();
    let rate = rate.context("iperf3 reports no rate")? / 1e6;
    let sides: Vec<BTreeSet<IpAddr>> = WORKERS
        .iter()
        .filter_map(|name| plan.cluster(name))
        .map(|c| c.machines().flat_map(|m| [m.wan4.into(), m.wan6.into()]).collect())
        .collect();
    let [east, west] = sides.as_slice() else { bail!("east and west are not both there") };
    let seen = census(&packets, east, west, (client, server));
    evidence.quote(&format!("iperf3: {rate:.0} Mbit/s over the slice"));
    evidence.quote(&format!(
        "between the clusters: {} WireGuard handshake and {} data messages, {} other packets, \
         {} with readable slice addresses",
        seen.handshakes, seen.data, seen.foreign, seen.readable
    ));
    let Census { data, foreign, readable, .. } = seen;
    if data == 0 || foreign > 0 || readable > 0 {
        bail!("not all packets between the clusters were WireGuard: {seen:?}");
    }
    Ok(((), format!("{rate:.0} Mbit/s; all {data} packets between the clusters are WireGuard")))
}

fn keep_out(cast: &Cast<'_>, server: &[IpAddr]) -> Result<((), String)> {
    for address in server {
        let target = address.to_string();
        if cast.stranger.run(&["ping", "-c", "2", "-i", "0.2", "-W", "1", &target]).is_ok() {
            bail!("{} reached {target}", cast.stranger.spell());
        }
    }
    // What failed must be the way, not the pod.
    cast.stranger.run(&["ip", "addr", "show", "eth0"])?;
    Ok(((), format!("{} gets no answer", cast.stranger.spell())))
}

fn status(demo: &Demo, evidence: &Evidence) -> Result<((), String)> {
    let kubeconfig = demo.kubeconfig("hub");
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        // Round trips and losses are reported a few seconds after the first packet.
        match demo.slicectl(evidence, &["status", "--kubeconfig", &kubeconfig]) {
            Ok(table) => {
                evidence.quote(&table);
                return Ok(((), "everything is ready".to_owned()));
            }
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_secs(1)),
        }
    }
}
