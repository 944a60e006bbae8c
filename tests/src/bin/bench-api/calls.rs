//! One call after the other, and many at a time, of three ways to the same objects.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kube::Client;
use serde_json::Value;
use slicewire_bench_report::Runs;
use slicewire_rpc::hub::v1alpha1 as rpc;
use slicewire_rpc::hub::v1alpha1::slice_service_client::SliceServiceClient;
use slicewire_testbed::Testbed;
use slicewire_tests::portal::with_token;
use tonic::transport::Channel;

use crate::hub::Hub;
use crate::load::{administrator, slice};

/// Calls of each kind in a round; kubectl, a process each, gets a part of them.
const CALLS: usize = 200;
const KUBECTL_CALLS: usize = 30;
/// Calls under way at a time, and for how long.
const AT_A_TIME: usize = 16;
const LONG: Duration = Duration::from_secs(3);

const PROJECT: &str = "b0";
const RAW: &str = "/apis/slicewire.dev/v1alpha1/namespaces/slicewire-b0/sliceconfigs";
/// Of all projects: as many objects as one page holds.
const RAW_LIST: &str = "/apis/slicewire.dev/v1alpha1/sliceconfigs?limit=500";

const OURS: &str = "ours";
const KUBECTL: &str = "kubectl --raw";
const KEPT: &str = "API server, connection kept";

/// A round.
pub(crate) fn measure(
    testbed: &Testbed,
    hub: &Hub,
    tokens: &[String],
    round: usize,
    runs: &mut Runs,
) -> Result<()> {
    let run = &hub.portal.runtime;
    let client = run.block_on(administrator(testbed))?;
    let channel = run.block_on(hub.portal.connect())?;
    let token = tokens.first().context("no callers")?;
    for what in ["get a slice", "list 500 slices", "create a slice"] {
        let calls = if what.starts_with("list") { CALLS / 4 } else { CALLS };
        let mut ours = Vec::new();
        let mut kept = Vec::new();
        for i in 0..calls {
            let name = format!("s{}", i % 100);
            let fresh = format!("x{round}-{i}");
            ours.push(timed(|| run.block_on(ask(&channel, token, what, &name, &fresh)))?);
            let fresh = format!("y{round}-{i}");
            kept.push(timed(|| run.block_on(raw(&client, what, &name, &fresh)))?);
        }
        let kubectl = (0..KUBECTL_CALLS).map(|i| {
            let name = format!("s{}", i % 100);
            timed(|| kubectl(testbed, what, &name, &format!("z{round}-{i}")))
        });
        let kubectl = kubectl.collect::<Result<Vec<f64>>>()?;
        for (who, times) in [(OURS, ours), (KEPT, kept), (KUBECTL, kubectl)] {
            for (part, share) in [("p50", 0.5), ("p99", 0.99)] {
                runs.push(&format!("{what}, {part}"), who, percentile(&times, share));
            }
        }
    }
    let what = "gets a second, 16 at a time";
    runs.push(
        what,
        OURS,
        run.block_on(rate(|i| {
            let (channel, token) = (channel.clone(), token.clone());
            async move { ask(&channel, &token, "get a slice", &format!("s{}", i % 100), "").await }
        }))?,
    );
    runs.push(
        what,
        KEPT,
        run.block_on(rate(|i| {
            let client = client.clone();
            async move { raw(&client, "get a slice", &format!("s{}", i % 100), "").await }
        }))?,
    );
    runs.push(what, KUBECTL, kubectl_rate(testbed)?);
    clear(testbed)
}

/// What creating has left.
fn clear(testbed: &Testbed) -> Result<()> {
    let list: Value = serde_json::from_str(&testbed.kubectl("hub", &["get", "--raw", RAW])?)?;
    let items = list["items"].as_array().context("no list")?.iter();
    let names: Vec<&str> = items
        .filter_map(|item| item["metadata"]["name"].as_str())
        .filter(|name| name.contains('-'))
        .collect();
    ensure!(names.len() >= CALLS, "only {} slices were made", names.len());
    let delete = ["-n", "slicewire-b0", "delete", "sliceconfigs", "--wait=true", "--timeout=300s"];
    testbed.kubectl("hub", &[&delete[..], &names].concat())?;
    Ok(())
}

/// Milliseconds.
fn timed<T>(call: impl FnOnce() -> Result<T>) -> Result<f64> {
    let begun = Instant::now();
    call()?;
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}

/// The nearest rank.
pub(crate) fn percentile(times: &[f64], share: f64) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(f64::NAN)
}

/// A slice of one cluster, so that it is not the plan that is measured.
fn small(name: &str) -> rpc::Slice {
    rpc::Slice {
        metadata: Some(rpc::Metadata {
            project: PROJECT.into(),
            name: name.into(),
            ..Default::default()
        }),
        spec: Some(rpc::SliceSpec {
            prefixes: vec!["10.77.0.0/16".into()],
            clusters: vec![rpc::SliceCluster { name: "c0".into() }],
            namespaces: vec![rpc::NamespaceRule {
                names: vec!["shop".into()],
                ..Default::default()
            }],
            ..Default::default()
        }),
        status: None,
    }
}

pub(crate) async fn ask(
    channel: &Channel,
    token: &str,
    what: &str,
    name: &str,
    fresh: &str,
) -> Result<()> {
    let client = SliceServiceClient::new(channel.clone());
    let mut client = client.max_decoding_message_size(64 << 20);
    match what {
        "get a slice" => {
            let request = rpc::GetSliceRequest { project: PROJECT.into(), name: name.into() };
            client.get_slice(with_token(token, request)).await?;
        }
        "create a slice" => {
            let request =
                rpc::CreateSliceRequest { slice: Some(small(fresh)), ..Default::default() };
            client.create_slice(with_token(token, request)).await?;
        }
        _ => {
            let request = rpc::ListSlicesRequest { page_size: 500, ..Default::default() };
            let page = client.list_slices(with_token(token, request)).await?.into_inner();
            ensure!(page.slices.len() == 500, "{} slices on the page", page.slices.len());
        }
    }
    Ok(())
}

/// The same of the API server, over a connection that is kept.
async fn raw(client: &Client, what: &str, name: &str, fresh: &str) -> Result<()> {
    let request = match what {
        "get a slice" => http_get(&format!("{RAW}/{name}"))?,
        "create a slice" => hyper::Request::post(RAW)
            .header("content-type", "application/json")
            .body(slice(fresh, &["c0".to_owned()]).to_string().into_bytes())?,
        _ => http_get(RAW_LIST)?,
    };
    client.request::<Value>(request).await?;
    Ok(())
}

fn http_get(path: &str) -> Result<hyper::Request<Vec<u8>>> {
    Ok(hyper::Request::get(path).body(Vec::new())?)
}

fn kubectl(testbed: &Testbed, what: &str, name: &str, fresh: &str) -> Result<()> {
    let mut command = testbed.kubectl_command("hub");
    match what {
        "get a slice" => command.args(["get", "--raw", &format!("{RAW}/{name}")]),
        "create a slice" => command.args(["create", "--raw", RAW, "-f", "-"]),
        _ => command.args(["get", "--raw", RAW_LIST]),
    };
    finish(command, &slice(fresh, &["c0".to_owned()]).to_string())
}

fn finish(mut command: Command, input: &str) -> Result<()> {
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // Who reads nothing closes it.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "kubectl: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

async fn rate<F: Future<Output = Result<()>>>(call: impl Fn(usize) -> F) -> Result<f64> {
    let begun = Instant::now();
    let one = |worker: usize| {
        let call = &call;
        async move {
            let mut done = 0usize;
            while begun.elapsed() < LONG {
                call(worker + done).await?;
                done += 1;
            }
            anyhow::Ok(done)
        }
    };
    let done = futures::future::try_join_all((0..AT_A_TIME).map(one)).await?;
    Ok(done.iter().sum::<usize>() as f64 / begun.elapsed().as_secs_f64())
}

fn kubectl_rate(testbed: &Testbed) -> Result<f64> {
    let begun = Instant::now();
    let mut threads = Vec::new();
    for _ in 0..AT_A_TIME {
        let testbed = testbed.clone();
        threads.push(std::thread::spawn(move || -> Result<usize> {
            let mut done = 0;
            while begun.elapsed() < LONG {
                kubectl(&testbed, "get a slice", &format!("s{}", done % 100), "")?;
                done += 1;
            }
            Ok(done)
        }));
    }
    let mut done = 0;
    for thread in threads {
        done += thread.join().map_err(|_| anyhow::anyhow!("a thread ended"))??;
    }
    Ok(done as f64 / begun.elapsed().as_secs_f64())
}
