//! The `testbed fault …` commands.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use nix::sys::signal::Signal;
use slicewire_testbed::link::Cut;
use slicewire_testbed::{Impairment, Testbed};

/// What can be broken and mended.
#[derive(Subcommand)]
pub(crate) enum Fault {
    /// Pull a machine's plug: everything on it ends at once.
    PowerOff { machine: String },
    /// Switch a machine on; its disk is as it was, its memory is empty.
    PowerOn { machine: String },
    /// Cut a machine off the WAN.
    Cut {
        machine: String,
        /// Lose packets without the machine's device noticing.
        #[arg(long)]
        silent: bool,
    },
    /// Take a cut back.
    Restore { machine: String },
    /// Limit a machine's link in both directions.
    Shape {
        machine: String,
        /// As tc takes it: 10mbit; `none` takes the limit back.
        #[arg(long)]
        rate: String,
        /// How long packets may queue before they are dropped.
        #[arg(long, default_value_t = 50)]
        queue_ms: u64,
    },
    /// Send a signal to all processes of a machine that run a program, in containers, too.
    Kill {
        machine: String,
        program: String,
        /// KILL, TERM, STOP, CONT, HUP, INT, ...
        #[arg(long, default_value = "KILL")]
        signal: String,
    },
    /// Stop one of a machine's daemons and keep it stopped: kubelet, containerd, etcd, ...
    Stop { machine: String, daemon: String },
    /// Start a stopped daemon.
    Start { machine: String, daemon: String },
    /// Stop a cluster's API server and keep it stopped.
    ApiStop { cluster: String },
    /// Start a cluster's API server and wait until it is ready.
    ApiStart { cluster: String },
    /// Delay, lose or reorder packets between two machines or clusters, both ways.
    Delay {
        /// Two machines or clusters.
        #[arg(long, num_args = 2, required = true, value_names = ["A", "B"])]
        between: Vec<String>,
        /// Milliseconds added one way.
        #[arg(long, default_value_t = 0.0)]
        ms: f64,
        /// Milliseconds the delay varies by.
        #[arg(long, default_value_t = 0.0)]
        jitter: f64,
        /// Percent of packets lost.
        #[arg(long, default_value_t = 0.0)]
        loss: f64,
        /// Percent of packets that overtake others.
        #[arg(long, default_value_t = 0.0)]
        reorder: f64,
        /// The same seed gives the same fates to the same packets.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Mend everything.
    Clear,
}

/// Does it, and says what was done.
pub(crate) fn run(testbed: &Testbed, fault: Fault) -> Result<String> {
    Ok(match fault {
        Fault::PowerOff { machine } => {
            testbed.power_off(&machine)?;
            format!("{machine} is off")
        }
        Fault::PowerOn { machine } => {
            testbed.power_on(&machine)?;
            format!("{machine} is on")
        }
        Fault::Cut { machine, silent } => {
            testbed.cut(&machine, if silent { Cut::Silent } else { Cut::Carrier })?;
            format!("{machine} is cut off")
        }
        Fault::Restore { machine } => {
            testbed.restore(&machine)?;
            format!("{machine} is connected")
        }
        Fault::Shape { machine, rate, queue_ms } => {
            let limit = (rate != "none").then_some(rate.as_str());
            testbed.shape(&machine, limit, Duration::from_millis(queue_ms))?;
            format!("{machine}'s link: {rate}")
        }
        Fault::Kill { machine, program, signal } => {
            let count = testbed.kill(&machine, &program, parse_signal(&signal)?)?;
            format!("{signal} sent to {count} of {program} on {machine}")
        }
        Fault::Stop { machine, daemon } => {
            testbed.stop_daemon(&machine, &daemon)?;
            format!("{daemon} on {machine} is stopped")
        }
        Fault::Start { machine, daemon } => {
            testbed.start_daemon(&machine, &daemon)?;
            format!("{daemon} on {machine} starts")
        }
        Fault::ApiStop { cluster } => {
            testbed.stop_api_server(&cluster)?;
            format!("{cluster}'s API server is stopped")
        }
        Fault::ApiStart { cluster } => {
            testbed.start_api_server(&cluster)?;
            format!("{cluster}'s API server is ready")
        }
        Fault::Delay { between, ms, jitter, loss, reorder, seed } => {
            let [a, b] = between.as_slice() else { bail!("--between takes two names") };
            let what = Impairment {
                delay: milliseconds("--ms", ms)?,
                jitter: milliseconds("--jitter", jitter)?,
                loss: loss / 100.0,
                reorder: reorder / 100.0,
            };
            testbed.delay(a, b, what, seed)?;
            format!("between {a} and {b}: {what}")
        }
        Fault::Clear => {
            testbed.clear_faults()?;
            "no faults are left".to_owned()
        }
    })
}

fn milliseconds(option: &str, value: f64) -> Result<Duration> {
    Duration::try_from_secs_f64(value / 1000.0)
        .with_context(|| format!("{option} {value}: a number of milliseconds from 0 on"))
}

fn parse_signal(name: &str) -> Result<Signal> {
    let full = format!("SIG{}", name.trim_start_matches("SIG"));
    full.parse().with_context(|| format!("'{name}' is no signal: write KILL, TERM, STOP, ..."))
}
