//! A ceiling that holds, on the slice that runs.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use slicewire_testbed::Testbed;

use crate::clusters::SLICE;
use crate::pods::Pod;
use crate::show::Evidence;

/// The project's namespace on the hub.
const PROJECT: &str = "slicewire-demo";
/// The ceiling in Mbit/s.
const CEILING: u32 = 50;
/// Bytes of a full TCP segment's payload on a slice with an MTU of 1,420, and of its frame, which is
/// what ceilings count.
const PAYLOAD: f64 = 1_368.0;
const FRAME: f64 = 1_434.0;

/// Gives the slice a ceiling, measures it, and takes it away again.
///
/// # Errors
/// It does not hold.
pub(crate) fn ceiling(
    testbed: &Testbed,
    client: &Pod<'_>,
    server: IpAddr,
    evidence: &Evidence,
) -> Result<((), String)> {
    ask(testbed, &json!({"ceiling": format!("{CEILING}M")}))?;
    let held = measure(client, server, evidence);
    ask(testbed, &Value::Null)?;
    let rate = held?;
    let off = (rate / f64::from(CEILING) - 1.0) * 100.0;
    Ok(((), format!("{rate:.1} of {CEILING} Mbit/s ({off:+.1} %), changed while the slice runs")))
}

fn ask(testbed: &Testbed, qos: &Value) -> Result<()> {
    let patch = json!({"spec": {"qos": qos}}).to_string();
    let words = ["-n", PROJECT, "patch", "sliceconfig", SLICE, "--type=merge", "-p", &patch];
    testbed.kubectl("hub", &words).map(drop)
}

/// Mbit/s of frames once the ceiling has reached the nodes, within 3 % of it.
fn measure(client: &Pod<'_>, server: IpAddr, evidence: &Evidence) -> Result<f64> {
    let target = server.to_string();
    let deadline = Instant::now() + Duration::from_secs(45);
    loop {
        let said = client.run(&["iperf3", "-c", &target, "-t", "4", "-O", "1", "-J"])?;
        let told: Value = serde_json::from_str(&said)?;
        let bits = told["end"]["sum_received"]["bits_per_second"].as_f64();
        let payload = bits.context("iperf3 reports no rate")? / 1e6;
        let rate = payload * FRAME / PAYLOAD;
        evidence.quote(&format!("iperf3: {payload:.1} Mbit/s of payload, {rate:.1} with headers"));
        if (rate / f64::from(CEILING) - 1.0).abs() <= 0.03 {
            return Ok(rate);
        }
        if Instant::now() > deadline {
            bail!("{rate:.1} Mbit/s is not within 3 % of {CEILING}");
        }
    }
}
