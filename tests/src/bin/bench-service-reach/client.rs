//! A client inside of a pod.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use slicewire_tests::World;

/// What it says when it could begin.
const READY: &str = "ready";
/// How `curl` ends when it is told that there is no such name.
const NO_NAME: i32 = 6;
/// After so many requests in a row without an answer none is waited for any more.
const ENOUGH: u32 = 10;
/// Seconds after which the pod is left alone, whatever became of its client.
const LIFE: u32 = 60;
/// Nothing takes the pod longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// One request, in seconds since the machine started.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Request {
    /// When the program was about to start.
    pub(crate) began: f64,
    /// When it had ended.
    pub(crate) ended: f64,
    code: i32,
}

impl Request {
    pub(crate) fn answered(&self) -> bool {
        self.code == 0
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let mut word = || words.next();
        let began = word()?.parse().ok()?;
        let code = word()?.parse().ok()?;
        let ended = word()?.parse().ok()?;
        Some(Self { began, ended, code })
    }
}

/// Asks a URL over and over, from when it is told to until there have been answers and are none any
/// more. It ends with the value, and in the pod some time later.
pub(crate) struct Client {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Client {
    /// Starts it; it waits for [`begin`](Self::begin).
    pub(crate) fn start(
        world: &World,
        (cluster, namespace, pod): (&str, &str, &str),
        url: &str,
    ) -> Result<Self> {
        let mut command = world.testbed.kubectl_command(cluster);
        command.args(["-n", namespace, "exec", "-i", pod, "--", "timeout", &LIFE.to_string()]);
        command.args(["sh", "-c", &line(url)]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start kubectl")?;
        let stdin = child.stdin.take().context("no input")?;
        let stdout = BufReader::new(child.stdout.take().context("no output")?);
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let client = Self { child, stdin, lines };
        let said = client.line(Instant::now() + PATIENCE)?;
        ensure!(said == READY, "the client says {said:?}");
        Ok(client)
    }

    /// Lets it ask.
    pub(crate) fn begin(&mut self) -> Result<()> {
        self.stdin.write_all(b"\n").context("the client has ended")
    }

    /// The first request that is answered.
    pub(crate) fn first(&self) -> Result<Request> {
        let until = Instant::now() + PATIENCE;
        loop {
            let request = self.request(until)?;
            if request.answered() {
                return Ok(request);
            }
        }
    }

    /// The last request that is answered, and the first one after it that is told of no such name.
    pub(crate) fn end(&self, first: Request) -> Result<(Request, Request)> {
        let until = Instant::now() + PATIENCE;
        let mut all = vec![first];
        let mut row = 0;
        while row < ENOUGH {
            let request = self.request(until)?;
            row = if request.answered() { 0 } else { row + 1 };
            all.push(request);
        }
        end(&all)
    }

    fn request(&self, until: Instant) -> Result<Request> {
        let line = self.line(until)?;
        Request::parse(&line).with_context(|| format!("the client says {line:?}"))
    }

    fn line(&self, until: Instant) -> Result<String> {
        let left = until.saturating_duration_since(Instant::now());
        self.lines.recv_timeout(left).context("it did not come, or the client has ended")
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // One that has ended already is as good.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn end(all: &[Request]) -> Result<(Request, Request)> {
    let (answered, after) = match all.iter().rposition(Request::answered) {
        Some(at) => (all.get(at), all.get(at + 1..).unwrap_or_default()),
        None => bail!("nothing was answered"),
    };
    let told = after.iter().find(|r| r.code == NO_NAME);
    Ok((
        *answered.context("nothing was answered")?,
        *told.context("nobody said that there is no such name")?,
    ))
}

fn line(url: &str) -> String {
    format!(
        "echo {READY}; read go; row=; while [ \"$row\" != {ENOUGH} ]; do \
         read began rest </proc/uptime; curl -s -m 1 -o /dev/null {url}; code=$?; \
         read ended rest </proc/uptime; echo $began $code $ended; \
         if [ $code = 0 ]; then row=0; elif [ -n \"$row\" ]; then row=$((row + 1)); fi; \
         sleep 0.01; done"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_told_by_the_last_answer_and_what_comes_after() {
        let lines = ["1.00 0 1.02", "1.03 28 2.03", "2.04 0 2.06", "2.07 7 2.08", "2.09 6 2.11"];
        let all: Vec<Request> = lines.iter().filter_map(|line| Request::parse(line)).collect();
        let (last, gone) = end(&all).unwrap();
        assert_eq!((last.began, gone.ended), (2.04, 2.11));
        assert!(end(&all[..4]).is_err(), "refused is not gone");
        assert!(end(&all[3..]).is_err(), "nothing was answered");
        assert_eq!(Request::parse("1.0 0"), None);
    }
}
