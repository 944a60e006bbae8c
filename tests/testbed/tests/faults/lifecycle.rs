//! Bringing the testbed up, also after an interruption, and taking it down.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use slicewire_testbed::Testbed;
use slicewire_testbed::process::Identity;

use crate::bed::{Bed, NAME, until};

/// Kills `up` as soon as machines are on, takes the wreck down, and finds nothing.
pub(crate) fn half_made(bed: &Bed) -> Result<String> {
    // What an earlier run of this test may have left.
    bed.run("down")?;
    nothing_left(bed)?;
    let mut up = bed.up().stderr(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    let mut said = BufReader::new(up.stderr.take().context("no pipe")?).lines();
    let seen = said.find(|line| line.as_ref().is_ok_and(|line| line.ends_with("east-cp is on")));
    kill(Pid::from_raw(i32::try_from(up.id())?), Signal::SIGKILL)?;
    ensure!(!up.wait()?.success() && seen.is_some(), "up did not get as far as east-cp");
    ensure!(!leftovers(bed)?.is_empty(), "up was killed, and nothing of it is there");
    bed.run("down")?;
    nothing_left(bed)?;
    bed.run("down")?;
    Ok("up was killed when its first machine was on; down removed all of it".to_owned())
}

/// Kills `up` with all it started at several moments, then lets one finish.
pub(crate) fn interrupted(bed: &Bed) -> Result<String> {
    let moments = [30, 60, 120, 250, 500, 1000];
    for milliseconds in moments {
        let mut up =
            bed.up().stderr(Stdio::null()).stdout(Stdio::null()).process_group(0).spawn()?;
        sleep(Duration::from_millis(milliseconds));
        killpg(Pid::from_raw(i32::try_from(up.id())?), Signal::SIGKILL)?;
        ensure!(!up.wait()?.success(), "up was done within {milliseconds} ms");
    }
    up(bed)?;
    whole(bed)?;
    Ok(format!("up was killed after {moments:?} ms; the last one made everything whole"))
}

/// A second `up` leaves what runs alone.
pub(crate) fn twice(bed: &Bed) -> Result<String> {
    let before = first_processes(bed)?;
    // At the same time, even.
    let mut other = bed.up().stderr(Stdio::null()).stdout(Stdio::null()).spawn()?;
    up(bed)?;
    ensure!(other.wait()?.success(), "of two at the same time, one up failed");
    ensure!(first_processes(bed)? == before, "machines were started again");
    whole(bed)?;
    Ok("two at the same time left all machines running".to_owned())
}

/// All kinds of damage, and one `fault clear`.
pub(crate) fn clear(bed: &Bed) -> Result<String> {
    let begin = first_processes(bed)?;
    bed.run("fault shape west-cp --rate 1mbit")?;
    bed.run("fault kill east-1 kube-proxy --signal STOP")?;
    damage(bed)?;
    bed.run("fault clear")?;
    until("both API servers are ready", 60, || Ok(!bed.run("status")?.contains("NOT ready")))?;
    whole(bed)?;
    let state = bed.sh("east-1", "sed -n 's/^State:.//p' /proc/$(pgrep -x kube-proxy)/status")?;
    ensure!(!state.starts_with('T'), "kube-proxy is still stopped");
    let qdisc = bed.sh("west-cp", "tc qdisc show dev eth0")?;
    ensure!(!qdisc.contains("tbf"), "the link is still limited: {qdisc}");
    let same = begin.iter().zip(first_processes(bed)?).filter(|(a, b)| *a == b).count();
    ensure!(same == 3, "only one machine was off, and {same} of 4 were left running");
    Ok("cut, limit, delays, stopped daemon and process, machine off: all taken back".to_owned())
}

fn damage(bed: &Bed) -> Result<()> {
    bed.run("fault cut east-1")?;
    bed.run("fault stop west-1 kubelet")?;
    bed.run("fault delay --between east west --ms 30")?;
    bed.run("fault power-off west-cp").map(drop)
}

/// The same and worse, and one `up`.
pub(crate) fn repair(bed: &Bed) -> Result<String> {
    damage(bed)?;
    let netns = format!("swtb-{NAME}");
    let deleted = std::process::Command::new("ip").args(["netns", "del", &netns]).status()?;
    ensure!(deleted.success(), "cannot delete {netns}");
    up(bed)?;
    whole(bed)?;
    Ok("a cut, a stopped daemon, delays, a machine off and the WAN itself deleted".to_owned())
}

/// The end, and what is left of it.
pub(crate) fn down(bed: &Bed) -> Result<String> {
    let paths = bed.paths()?;
    let inits = first_processes(bed)?;
    let kubeconfig = paths.kubeconfig("east");
    ensure!(kubeconfig.exists(), "{} is missing", kubeconfig.display());
    bed.run("fault delay --between east west --ms 30")?;
    bed.run("down")?;
    nothing_left(bed)?;
    for init in inits {
        ensure!(!init.alive(), "process {} still runs", init.pid);
    }
    ensure!(bed.refused("status")?.contains("testbed up"), "status does not say what to do");
    Ok("no namespaces, links, mounts, cgroups, processes or files".to_owned())
}

fn up(bed: &Bed) -> Result<()> {
    let output = bed.up().output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "up failed: {said}");
    Ok(())
}

/// Everything is on and ready, and no fault is known.
fn whole(bed: &Bed) -> Result<()> {
    let status = bed.run("status")?;
    let bad = ["OFF", "NOT ready", "faults:"].iter().any(|word| status.contains(word));
    ensure!(!bad && status.matches(" on, ").count() == 4, "not whole:\n{status}");
    for cluster in ["east", "west"] {
        // A kubelet that has just started may have to speak first.
        until(&format!("{cluster}'s node is ready"), 20, || {
            let nodes = bed.run(&format!("kubectl {cluster} get nodes --no-headers"))?;
            Ok(nodes.split_whitespace().nth(1) == Some("Ready"))
        })?;
    }
    let far = bed.machine("west-1")?;
    bed.sh("east-1", &format!("ping -q -c 1 -W 5 {}; ping -q -c 1 -W 5 {}", far.wan4, far.wan6))?;
    Ok(())
}

/// All machines' first processes.
fn first_processes(bed: &Bed) -> Result<Vec<Identity>> {
    let testbed = Testbed::open(NAME)?;
    let found: Vec<Identity> = testbed.plan.machines().filter_map(|m| testbed.init(m)).collect();
    ensure!(found.len() == 4, "not all machines are on:\n{}", bed.run("status")?);
    Ok(found)
}

fn nothing_left(bed: &Bed) -> Result<()> {
    let left = leftovers(bed)?;
    if !left.is_empty() {
        bail!("left behind:\n  {}", left.join("\n  "));
    }
    Ok(())
}

/// Everything of the testbed that this machine shows.
fn leftovers(bed: &Bed) -> Result<Vec<String>> {
    let paths = bed.paths()?;
    let state = paths.state();
    let kubeconfigs = paths.kubeconfig("any");
    let kubeconfigs = kubeconfigs.parent().context("a file has a directory")?;
    let mut places = vec![
        state.clone(),
        state.with_extension("lock"),
        kubeconfigs.to_owned(),
        PathBuf::from(format!("/run/netns/swtb-{NAME}")),
        PathBuf::from(format!("/sys/class/net/swtb-{NAME}")),
        PathBuf::from(format!("/sys/fs/cgroup/slicewire-testbed/{NAME}")),
    ];
    for hierarchy in fs::read_dir("/sys/fs/cgroup")? {
        places.push(hierarchy?.path().join("slicewire-testbed").join(NAME));
    }
    let mut left: Vec<String> =
        places.iter().filter(|place| place.exists()).map(|p| p.display().to_string()).collect();
    let traces = [format!("{}/", state.display()), format!("swtb-{NAME}")];
    let traced = |text: &str| traces.iter().any(|trace| text.contains(trace));
    for process in fs::read_dir("/proc")? {
        let process = process?.path();
        // Many entries are no processes, and processes end.
        let read = |file: &str| fs::read(process.join(file)).unwrap_or_default();
        let command = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
        if traced(&command) {
            left.push(format!("{}: {command}", process.display()));
        }
        let mounts = read("mountinfo");
        let mounts = String::from_utf8_lossy(&mounts);
        left.extend(
            mounts.lines().find(|l| traced(l)).map(|l| format!("{}: {l}", process.display())),
        );
    }
    Ok(left)
}
