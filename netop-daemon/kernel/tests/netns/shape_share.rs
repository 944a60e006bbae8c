//! Two slices of one node over one uplink: guarantees, priorities, and what an idle slice notices.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use slicewire_core::qos::Rate;
use slicewire_core::qos::shape::Limit;
use slicewire_core::qos::share::{Sample, Sharer, Terms};
use slicewire_kernel::{Neighbour, NextHops, Op, Route, Shaper};

use crate::lab::{Lab, ip};
use crate::shape_bed::{BEYOND, Bed, FAR, Streams, WAY, frames, round_trips, uplink};

const M: u64 = 1_000_000;

/// Divides a link among routers until dropped, as the daemon does.
struct Dividing {
    stop: Arc<AtomicBool>,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Dividing {
    fn start(link: Rate, slices: Vec<(String, Terms, Shaper)>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let ended = stop.clone();
        let task = tokio::spawn(async move {
            let (begun, mut sharer) = (Instant::now(), Sharer::default());
            while !ended.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(25)).await;
                let mut samples = BTreeMap::new();
                for (name, terms, shaper) in &slices {
                    let counted = shaper.counters().await.unwrap().unwrap().leaving;
                    let sample = Sample { bytes: counted.bytes, backlog: counted.backlog };
                    samples.insert(name.clone(), (*terms, sample));
                }
                let now = u64::try_from(begun.elapsed().as_millis()).unwrap();
                let shares = sharer.step(link, now, &samples);
                for (name, _, shaper) in &slices {
                    let limit = Limit { rate: shares[name], burst: None };
                    shaper.set_limits(limit, Limit { rate: link, burst: None }).await.unwrap();
                }
            }
        });
        Self { stop, task: Some(task) }
    }
}

impl Drop for Dividing {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.task.take());
    }
}

async fn slice(lab: &mut Lab, name: &str, link: Rate) -> (Bed, Shaper) {
    let bed = Bed::new(lab, name, 1).await;
    let shaper = Shaper::open(bed.router.id()).await.unwrap();
    shaper.apply(&bed.shape(link)).await.unwrap();
    (bed, shaper)
}

fn terms(guarantee: u64, priority: u8) -> Terms {
    let guarantee = (guarantee > 0).then_some(Rate(guarantee * M));
    Terms { ceiling: None, guarantee, priority }
}

/// What a machine with other things to do does not let happen every time, but now and then.
fn seen(what: &str, happens: impl Fn() -> bool) {
    assert!((0..10).any(|_| happens()), "not once in ten times: {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn guarantees_and_priorities_hold_when_slices_compete() {
    let mut lab = Lab::new("shg");
    let link = Rate(100 * M);
    let (a, of_a) = slice(&mut lab, "a", link).await;
    let (b, of_b) = slice(&mut lab, "b", link).await;
    let slices = vec![("a".to_owned(), terms(60, 1), of_a), ("b".to_owned(), terms(0, 7), of_b)];
    let dividing = Dividing::start(link, slices);
    let flow =
        |bed: &Bed, count| Streams::start(bed.pods[0].0.id(), bed.far.id(), ip(FAR[0]), count);
    let long = Duration::from_secs(4);
    let low = flow(&b, 8);
    std::thread::sleep(Duration::from_secs(1));
    seen("the whole link is had alone", || {
        let alone = low.rate(long);
        println!("alone: {alone:.1} Mbit/s of 100");
        assert!(alone <= 101.0, "{alone}");
        alone >= 95.0
    });
    let high = flow(&a, 1);
    std::thread::sleep(Duration::from_secs(1));
    seen("the guarantee and all of the link are had", || {
        let (begun, before) = (Instant::now(), (high.bytes(), low.bytes()));
        std::thread::sleep(long);
        let time = begun.elapsed();
        let (x, y) = (frames(high.bytes() - before.0, time), frames(low.bytes() - before.1, time));
        println!(
            "one stream with a guarantee of 60: {x:.1}; eight without, higher priority: {y:.1}"
        );
        // A little more than the uplink, while one pauses and what it left is lent for a moment.
        assert!(x + y <= 103.0, "{x} and {y}");
        (58.2..=61.8).contains(&x) && x + y >= 95.0
    });
    drop(high);
    std::thread::sleep(Duration::from_secs(1));
    seen("what is not used is lent", || low.rate(long) >= 95.0);
    drop(dividing);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_slice_hardly_notices_that_another_fills_the_uplink() {
    let mut lab = Lab::new("shr");
    let near = lab.ns("u").await;
    let quiet = Bed::beside(&mut lab, "a", 1, near.clone(), "eth0").await;
    let loud = Bed::beside(&mut lab, "b", 2, near.clone(), "eth1").await;
    let beyond = uplink(&mut lab, &[&quiet, &loud], 110).await;
    for (bed, nic) in [(&quiet, "eth0"), (&loud, "eth1")] {
        let mac = near.link(nic).await.unwrap().unwrap().mac.unwrap();
        let (dev, addr) = (WAY.to_owned(), ip(BEYOND));
        let ops = vec![
            Op::ReplaceNeighbour(Neighbour { dev, addr, mac }),
            Op::ReplaceRoute(Route::new(addr.into(), NextHops::dev(WAY))),
        ];
        bed.router.sequence(ops).await.unwrap();
    }
    let via = NextHops::via(ip("169.254.1.1"), "eth0");
    let back = Op::ReplaceRoute(Route::new(ip("10.80.0.1").into(), via));
    near.sequence(vec![back]).await.unwrap();
    let trip = || round_trips(quiet.pods[0].0.id(), beyond.id(), ip(BEYOND), 200);
    let idle = trip();
    let load = Streams::start(loud.pods[1].0.id(), beyond.id(), ip(BEYOND), 8);
    std::thread::sleep(Duration::from_secs(2));
    let unshaped = trip();
    let link = Rate(100 * M);
    let mut slices = Vec::new();
    for (name, bed) in [("quiet", &quiet), ("loud", &loud)] {
        let shaper = Shaper::open(bed.router.id()).await.unwrap();
        shaper.apply(&bed.shape(link)).await.unwrap();
        slices.push((name.to_owned(), terms(0, 4), shaper));
    }
    let dividing = Dividing::start(link, slices);
    // What waits at the uplink has left by then.
    std::thread::sleep(Duration::from_secs(2));
    seen("an idle slice answers at once beside a full uplink", || {
        let shaped = trip();
        let rate = load.rate(Duration::from_secs(2));
        println!(
            "idle {idle:?}, loaded {shaped:?} (not shaped: {unshaped:?}), load {rate:.1} Mbit/s"
        );
        rate > 90.0 && shaped < Duration::from_millis(5) && shaped * 10 < unshaped
    });
    drop(dividing);
}
