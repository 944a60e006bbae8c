//! Sends pings to an address and says what became of them: for machines that have only this.

use std::net::IpAddr;

use anyhow::Result;
use clap::Parser;
use slicewire_tunnel_tests::{pinger::ping_here, traffic::Pings};

#[derive(Debug, Parser)]
struct Args {
    /// Whom to ping.
    target: IpAddr,
    /// How many pings.
    count: u32,
    /// Milliseconds between two.
    interval: u32,
    /// Bytes in each.
    size: u32,
    /// Milliseconds an answer may take.
    patience: u32,
    /// How many may be on their way.
    window: u32,
}

#[expect(clippy::print_stdout, reason = "what it prints is what it is for")]
fn main() -> Result<()> {
    let Args { target, count, interval, size, patience, window } = Args::parse();
    let answers = ping_here(target, Pings { count, interval, size, patience, window })?;
    println!("{} {} {}", answers.sent, answers.received, answers.duplicates);
    Ok(())
}
