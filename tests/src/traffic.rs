//! Traffic that runs while something is done to the system.

use std::net::IpAddr;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};

use crate::world::World;

/// Pings per second.
pub const RATE: u32 = 100;

/// A ping at [`RATE`] and a TCP stream between two pods, both running.
pub struct Traffic {
    ping: Child,
    stream: Child,
    /// The pod that sends.
    from: (String, String, String),
    sent: u32,
}

impl World {
    /// An iperf3 server in a pod, listening on return and left running. Whether one is there is asked
    /// of the port: a pod that only sends runs an iperf3, too.
    ///
    /// # Errors
    /// It does not listen within ten seconds.
    pub fn stream_server(&self, (cluster, ns, pod): (&str, &str, &str)) -> Result<()> {
        let line = "listens() { ss -Hltn 'sport = :5201' | grep -q .; }
                    listens || iperf3 -s -D
                    for _ in $(seq 100); do listens && exit 0; sleep 0.1; done
                    echo 'iperf3 does not listen on port 5201' >&2; exit 1";
        self.sh(cluster, ns, pod, line)?;
        Ok(())
    }

    /// Starts traffic from a pod to an address of the server's pod, for `seconds`, and before it a
    /// [`World::stream_server`] there.
    ///
    /// # Errors
    /// The programs cannot be started.
    pub fn traffic(
        &self,
        from: (&str, &str, &str),
        server: (&str, &str, &str),
        to: IpAddr,
        seconds: u32,
    ) -> Result<Traffic> {
        self.stream_server(server)?;
        let (cluster, ns, pod) = from;
        let start = |line: &str| {
            self.testbed
                .kubectl_command(cluster)
                .args(["-n", ns, "exec", pod, "--", "sh", "-c", line])
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .context("cannot start kubectl")
        };
        let sent = seconds * RATE;
        let ping = start(&format!("ping -q -i 0.01 -c {sent} -W 2 {to}"))?;
        let stream = start(&format!("iperf3 -c {to} -t {seconds} -b 20M -i 0"))?;
        let from = (cluster.to_owned(), ns.to_owned(), pod.to_owned());
        Ok(Traffic { ping, stream, from, sent })
    }
}

impl Traffic {
    /// Waits for the end; how many of the pings were lost.
    ///
    /// # Errors
    /// The TCP stream broke, or what ping printed cannot be read.
    pub fn lost(self) -> Result<u32> {
        let sent = self.sent;
        let (_, received) = self.outcome(None)?;
        Ok(sent.saturating_sub(received))
    }

    /// Ends it before its time; how many of the pings were lost until then.
    ///
    /// # Errors
    /// The TCP stream broke before, or what ping printed cannot be read.
    pub fn end(self, world: &World) -> Result<u32> {
        let (cluster, ns, pod) = &self.from;
        let line = "for p in $(pidof ping iperf3); do \
                    if ! grep -q -- -D /proc/$p/cmdline; then kill -INT $p; fi; done";
        world.sh(cluster, ns, pod, line)?;
        let (sent, received) = self.outcome(Some("the client has terminated"))?;
        // The last one may still have been on its way.
        Ok(sent.saturating_sub(received).saturating_sub(1))
    }

    /// How many pings were sent and answered. The stream has succeeded, or said `ended` at its end.
    fn outcome(self, ended: Option<&str>) -> Result<(u32, u32)> {
        let ping = self.ping.wait_with_output()?;
        let stream = self.stream.wait_with_output()?;
        let said = String::from_utf8_lossy(&ping.stdout).into_owned();
        let summary = said.lines().find(|l| l.contains("packets transmitted"));
        let summary = summary.with_context(|| {
            format!("ping ended early: {said}{}", String::from_utf8_lossy(&ping.stderr))
        })?;
        let number = |word: usize| summary.split(' ').nth(word).and_then(|w| w.parse::<u32>().ok());
        let both = number(0).zip(number(3)).context("ping's summary cannot be read")?;
        let told = String::from_utf8_lossy(&stream.stderr).into_owned();
        ensure!(
            stream.status.success() || ended.is_some_and(|words| told.contains(words)),
            "the TCP stream broke: {}{}",
            String::from_utf8_lossy(&stream.stdout),
            told
        );
        Ok(both)
    }
}
