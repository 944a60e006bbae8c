//! What the path between two machines does to packets, measured.

use std::net::IpAddr;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::bed::{Bed, until};

/// What became of a series of pings.
#[derive(Debug)]
pub(crate) struct Pings {
    /// How many were sent.
    pub sent: usize,
    /// The round trips in milliseconds, as the answers came.
    pub trips: Vec<f64>,
    /// How many answers came after that of a later ping.
    pub late: usize,
}

impl Pings {
    /// The share that was lost, 0 to 1.
    pub(crate) fn lost(&self) -> f64 {
        1.0 - self.trips.len() as f64 / self.sent as f64
    }

    /// The fastest round trip in milliseconds: the one others on this machine disturbed least.
    pub(crate) fn fastest(&self) -> f64 {
        self.trips.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// The slowest round trip in milliseconds.
    pub(crate) fn slowest(&self) -> f64 {
        self.trips.iter().copied().fold(0.0, f64::max)
    }
}

/// Sends pings from a machine, one each `every` seconds or, for 0, all at once; all answers
/// within a second count.
pub(crate) fn ping(bed: &Bed, from: &str, to: IpAddr, count: usize, every: f64) -> Result<Pings> {
    let pace = if every > 0.0 { format!("-i {every}") } else { format!("-l {count}") };
    // All lost is an answer, too, which ping calls a failure.
    let said = bed.sh(from, &format!("ping -W 1 -c {count} {pace} {to} || test $? = 1"))?;
    let value = |line: &str, key: &str| -> Option<f64> {
        let rest = line.split_once(key)?.1;
        rest.split_whitespace().next()?.parse().ok()
    };
    let answers = said.lines().filter_map(|l| Some((value(l, "icmp_seq=")?, value(l, "time=")?)));
    let (order, trips): (Vec<f64>, Vec<f64>) = answers.unzip();
    let (mut late, mut last) = (0, 0.0);
    for number in order {
        late += usize::from(number < last);
        last = number.max(last);
    }
    Ok(Pings { sent: count, trips, late })
}

/// An iperf3 server on a machine; dropping it ends it.
pub(crate) struct Server {
    machine: String,
    child: Child,
    to: [IpAddr; 2],
}

impl Server {
    /// Starts it and waits until it listens.
    pub(crate) fn start(bed: &Bed, machine: &str) -> Result<Self> {
        let addresses = bed.machine(machine)?;
        let mut command = bed.command(&format!("exec {machine} -- iperf3 -s -p {PORT}"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        let to = [addresses.wan4.into(), addresses.wan6.into()];
        let server = Self { machine: machine.to_owned(), child, to };
        until("iperf3 listens", 10, || {
            Ok(bed.sh(machine, "ss -Hltn")?.contains(&format!(":{PORT} ")))
        })?;
        Ok(server)
    }

    /// Runs iperf3 from a machine to this server, over IPv4 or IPv6; what it reports at its end.
    pub(crate) fn measure(&self, bed: &Bed, from: &str, v6: bool, options: &str) -> Result<Value> {
        let to = self.to[usize::from(v6)];
        let said = bed.sh(from, &format!("iperf3 -J -p {PORT} -c {to} {options}"));
        // It serves one at a time and may not be done with the last.
        sleep(Duration::from_millis(200));
        Ok(serde_json::from_str::<Value>(&said?)?["end"].clone())
    }

    /// The rate in Mbit/s at which a TCP stream arrives.
    pub(crate) fn tcp(&self, bed: &Bed, from: &str, options: &str) -> Result<f64> {
        let end = self.measure(bed, from, false, options)?;
        let rate = end["sum_received"]["bits_per_second"].as_f64();
        Ok(rate.context("iperf3 reports no rate")? / 1e6)
    }

    /// Sends moderate TCP and UDP over both families; fails if the path harms any.
    pub(crate) fn unharmed(&self, bed: &Bed, from: &str) -> Result<()> {
        for v6 in [false, true] {
            let tcp = self.measure(bed, from, v6, "-t 1 -b 20M")?;
            let rate = tcp["sum_received"]["bits_per_second"].as_f64().unwrap_or(0.0) / 1e6;
            ensure!(rate > 15.0, "of 20 Mbit/s of TCP, {rate:.1} arrive (IPv6: {v6})");
            let udp = self.measure(bed, from, v6, "-t 1 -u -b 5M -l 1200")?;
            let count = |key: &str| udp["sum"][key].as_f64().unwrap_or(f64::NAN);
            let (lost, sent) = (count("lost_packets"), count("packets"));
            ensure!(sent > 400.0, "iperf3 sent only {sent} datagrams (IPv6: {v6})");
            ensure!(lost / sent < 0.01, "{lost} of {sent} datagrams are lost (IPv6: {v6})");
        }
        Ok(())
    }
}

/// Not iperf3's usual one, which others may use.
const PORT: u16 = 5299;

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended with its machine. What runs here is only the way to it.
        let _ = Bed::new().output(&format!("fault kill {} iperf3", self.machine));
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
