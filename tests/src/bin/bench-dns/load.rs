//! Questions by `dnsperf`.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use slicewire_bench_report::{percentile, used};

use crate::names::THERE;

/// Sockets that ask.
const CLIENTS: &str = "20";
/// Questions that wait for an answer at a time, at most.
const WAITING: &str = "200";
/// Of questions, so many may stay without an answer.
const LOST: f64 = 0.001;

/// What is asked, and how long.
pub(crate) struct Load<'a> {
    /// The file with the questions.
    pub(crate) questions: &'a Path,
    /// The time of one measurement.
    pub(crate) time: Duration,
}

impl Load<'_> {
    /// As many questions a second as are answered, and what one takes `dnsperf` of the processors, in
    /// microseconds.
    pub(crate) fn maximum(&self, port: u16) -> Result<(f64, f64)> {
        let before = used::ended()?;
        let said = self.run(port, &[])?;
        let used = used::ended()?.saturating_sub(before);
        let answers = number(&said, "Queries completed:")?;
        Ok((number(&said, "Queries per second:")?, used.as_secs_f64() * 1e6 / answers))
    }

    /// The median and the 99th percentile of how long answers take at a rate, in microseconds.
    pub(crate) fn latencies(&self, port: u16, rate: u32) -> Result<[f64; 2]> {
        let said = self.run(port, &["-v", "-Q", &rate.to_string()])?;
        let asked = number(&said, "Queries per second:")?;
        ensure!(asked > f64::from(rate) * 0.97, "only {asked:.0} questions a second were asked");
        // "> NOERROR web-1.shop-1.svc.clusterset.local A 0.000123"
        let answers = said.lines().filter(|line| line.starts_with("> "));
        let times = answers.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        let times: Vec<f64> = times.map(|seconds| seconds * 1e6).collect();
        let at = |p| percentile(&times, p).context("dnsperf told no latencies");
        Ok([at(50.0)?, at(99.0)?])
    }

    fn run(&self, port: u16, more: &[&str]) -> Result<String> {
        let (port, time) = (port.to_string(), self.time.as_secs().to_string());
        let mut command = Command::new("dnsperf");
        command.args(["-s", "127.0.0.1", "-p", &port, "-l", &time, "-c", CLIENTS, "-T", "1"]);
        command.args(["-q", WAITING, "-t", "2"]).arg("-d").arg(self.questions).args(more);
        let output = command.output().context("cannot start dnsperf; is it installed?")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!("dnsperf: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let sent = number(&said, "Queries sent:")?;
        let lost = number(&said, "Queries lost:")? / sent.max(1.0);
        ensure!(lost <= LOST, "{:.2} % of the questions stayed without an answer", lost * 100.0);
        // "Response codes: NOERROR 45000 (90.00%), NXDOMAIN 5000 (10.00%)"
        let there = number(&said, "NOERROR ")? / sent.max(1.0);
        ensure!((there - THERE).abs() < 0.01, "{:.1} % of the names were there", there * 100.0);
        Ok(said)
    }
}

/// The number behind some words.
fn number(said: &str, words: &str) -> Result<f64> {
    // Latencies come first, and name the same words.
    let told = said.rsplit_once("Statistics:").map_or(said, |(_, told)| told);
    let rest = told.split_once(words).map(|(_, rest)| rest.trim_start());
    let number = rest.and_then(|rest| rest.split([' ', '\n', ')', ',']).next()?.parse().ok());
    number.with_context(|| format!("dnsperf does not tell \"{words}\""))
}
