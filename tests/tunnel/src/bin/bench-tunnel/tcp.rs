//! TCP through the tunnel, by iperf3.

use std::{
    io::{self, Write},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use slicewire_tunnel_tests::process::{Daemon, output};

use crate::{
    processor::Used,
    topology::{FAR, Net},
};

/// What one run gave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Tcp {
    /// Received, in Gbit/s.
    pub(crate) gbits: f64,
    /// Received, in GB.
    pub(crate) gigabytes: f64,
    /// Processor time during the run.
    pub(crate) used: Used,
}

/// Sends over `streams` connections for `seconds` from the first client to the second. What hung
/// is no measurement, and is tried once more.
pub(crate) fn tcp(net: &Net, streams: u32, seconds: u32, pids: &[u32]) -> Result<Tcp> {
    attempt(net, streams, seconds, pids).or_else(|error| {
        writeln!(io::stderr(), "once more, because {error:#}")?;
        attempt(net, streams, seconds, pids)
    })
}

fn attempt(net: &Net, streams: u32, seconds: u32, pids: &[u32]) -> Result<Tcp> {
    let (_server, mut command) = prepare(net, seconds)?;
    command.args(["-P", &streams.to_string()]);
    let before = Used::now(pids)?;
    let text = output(&mut command)?;
    let used = Used::now(pids)?.since(before);
    let report: Value = serde_json::from_str(&text).context("iperf3 wrote no JSON")?;
    let number = |field: &str| report["end"]["sum_received"][field].as_f64();
    let (Some(bits), Some(bytes)) = (number("bits_per_second"), number("bytes")) else {
        bail!("iperf3 reports no sum: {text}");
    };
    Ok(Tcp { gbits: bits / 1e9, gigabytes: bytes / 1e9, used })
}

/// Runs `act` while UDP of `megabits` per second passes; fails when less than nine tenths came
/// through, because then that was not the load.
pub(crate) fn under_load<T>(
    net: &Net,
    megabits: u32,
    seconds: u32,
    act: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let (_server, mut command) = prepare(net, seconds)?;
    command.args(["-u", "-l", "1372", "-b", &format!("{megabits}M")]);
    thread::scope(|scope| {
        let load = scope.spawn(move || output(&mut command));
        thread::sleep(Duration::from_millis(400));
        let result = act()?;
        let Ok(text) = load.join() else { bail!("the load panicked") };
        let report: Value = serde_json::from_str(&text?)?;
        let sum = &report["end"]["sum"];
        let (sent, lost) = (sum["bits_per_second"].as_f64(), sum["lost_percent"].as_f64());
        let passed = sent.context("no sum")? * (100.0 - lost.context("no loss")?) / 100.0 / 1e6;
        if passed < 0.9 * f64::from(megabits) {
            bail!("only {passed:.0} of {megabits} Mbit/s passed");
        }
        Ok(result)
    })
}

/// A server in the second client, and a client's command that is bounded in time.
fn prepare(net: &Net, seconds: u32) -> Result<(Daemon, Command)> {
    let [near, far] = &net.clients;
    let log = std::env::temp_dir().join(format!("slicewire-{}.log", far.name()));
    let mut server = Daemon::start("iperf3", far.command("iperf3")?.args(["-s", "-1"]), log)?;
    server.wait_until(Duration::from_secs(5), || {
        far.sh("ss -Hltn sport = :5201 | grep -q .").is_ok()
    })?;
    let mut command = near.command("timeout")?;
    // Asked to end, iperf3 may wait for the other side for ever.
    command.args(["--signal=KILL", &(seconds + 15).to_string(), "iperf3", "-c", FAR, "-J", "-t"]);
    command.arg(seconds.to_string());
    Ok((server, command))
}
