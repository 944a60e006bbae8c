//! How long the kernel's part of an attachment takes with a hundred pods on the router.

use std::time::{Duration, Instant};

use slicewire_kernel::{Kernel, Mac, Network as _, Op};

use crate::lab::Lab;
use crate::two_pods_one_router::{Place, forwarding, pod_side, router_side};

const PODS: usize = 100;

/// Run by hand: `cargo test --release -p slicewire-kernel --test netns -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement; noisy on a busy machine"]
async fn attach_and_detach_with_a_hundred_pods() {
    let mut lab = Lab::new("lat");
    let kernel = Kernel::new();
    let router = lab.ns("r").await;
    router.apply(forwarding()).await.unwrap();
    for n in 0..PODS {
        lab.ns(&n.to_string()).await;
    }
    let places: Vec<Place> = (0..PODS).map(place).collect();
    let (mut attach, mut detach) = (Vec::new(), Vec::new());
    for (n, place) in places.iter().enumerate() {
        let start = Instant::now();
        let id = lab.id(&n.to_string());
        let pod = kernel.open(&id).await.unwrap();
        router.sequence(router_side(&id, place)).await.unwrap();
        pod.sequence(pod_side(place, ["10.20.0.0/16", "fd00:20::/48"])).await.unwrap();
        attach.push(start.elapsed());
    }
    for place in &places {
        let start = Instant::now();
        router.apply(vec![Op::DeleteLink { dev: place.port.clone() }]).await.unwrap();
        detach.push(start.elapsed());
    }
    println!("attach {:?}, detach {:?}", quantiles(attach), quantiles(detach));
}

fn place(n: usize) -> Place {
    let last = u8::try_from(n).unwrap();
    let leak = |text: String| -> &'static str { text.leak() };
    Place {
        port: format!("swp{n:012x}"),
        addrs: [leak(format!("10.20.0.{last}/32")), leak(format!("fd00:20::{last:x}/128"))],
        macs: [Mac([2, 0, 0, 0, 1, last]), Mac([2, 0, 0, 0, 2, last])],
    }
}

/// Median, 99th hundredth, most.
fn quantiles(mut times: Vec<Duration>) -> [Duration; 3] {
    times.sort();
    [times[times.len() / 2], times[times.len() * 99 / 100 - 1], times[times.len() - 1]]
}
