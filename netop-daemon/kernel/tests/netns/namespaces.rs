//! Making, finding and removing named namespaces.

use std::time::Duration;

use slicewire_kernel::{Kernel, LinkEnd, Network as _, Ns, NsId, Op};

use crate::lab::Lab;

#[tokio::test]
async fn made_twice_listed_once_gone_twice() {
    let mut lab = Lab::new("made");
    let kernel = Kernel::new();
    let first = lab.ns("a").await;
    let index = first.observe().await.unwrap().link("lo").unwrap().clone();
    assert!(index.up);
    let again = kernel.create(&lab.name("a")).await.unwrap();
    again.apply(vec![sysctl("1")]).await.unwrap();
    assert_eq!(first.sysctl("ipv4/ip_forward").await.unwrap(), "1", "not the same namespace");
    assert_eq!(lab.existing().await, [lab.name("a")]);

    // A file without a namespace, as a crash leaves it, is none, and is made one.
    let stale = lab.name("b");
    std::fs::write(format!("/run/netns/{stale}"), "").unwrap();
    assert_eq!(lab.existing().await, [lab.name("a")]);
    let open = kernel.open(&lab.id("b")).await.err().unwrap();
    assert_eq!(open.reason(), "NotFound", "{open}");
    lab.ns("b").await;
    assert_eq!(lab.existing().await, [lab.name("a"), lab.name("b")]);

    for _ in 0..2 {
        kernel.delete(&lab.name("a")).await.unwrap();
        kernel.delete(&lab.name("b")).await.unwrap();
    }
    assert!(lab.existing().await.is_empty());
}

#[tokio::test]
async fn settings_of_one_namespace_are_not_those_of_another() {
    let mut lab = Lab::new("apart");
    let (a, b) = (lab.ns("a").await, lab.ns("b").await);
    let host = Kernel::new().open(&NsId::Current).await.unwrap();
    let before = host.sysctl("ipv4/ip_forward").await.unwrap();
    b.apply(vec![sysctl("0")]).await.unwrap();
    a.apply(vec![sysctl("1")]).await.unwrap();
    assert_eq!(a.sysctl("ipv4/ip_forward").await.unwrap(), "1");
    assert_eq!(b.sysctl("ipv4/ip_forward").await.unwrap(), "0");
    assert_eq!(host.sysctl("ipv4/ip_forward").await.unwrap(), before);
}

#[tokio::test]
async fn names_that_would_leave_the_directory_are_refused() {
    for name in ["", "..", "../../etc/passwd", "a/b"] {
        let error = Kernel::new().create(name).await.err().unwrap();
        assert_eq!(error.reason(), "Invalid", "{name:?}: {error}");
    }
}

/// Whether the port is gone within a time. A namespace takes its devices along when it goes, and
/// with them their other ends.
async fn gone(router: &Ns, port: &str, patience: Duration) -> bool {
    let until = std::time::Instant::now() + patience;
    loop {
        if router.links().await.unwrap().iter().all(|link| link.name != port) {
            return true;
        }
        if std::time::Instant::now() >= until {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_pods_namespace_goes_with_its_last_handle() {
    let mut lab = Lab::new("goes");
    let router = lab.ns("r").await;
    let pod = lab.ns("p").await;
    let cable = Op::AddVeth {
        end: LinkEnd::new("swp"),
        peer_ns: pod.id().clone(),
        peer: LinkEnd::new("slice0").up(),
    };
    router.sequence(vec![cable]).await.unwrap();
    assert!(pod.observe().await.unwrap().link("slice0").unwrap().up);
    Kernel::new().delete(&lab.name("p")).await.unwrap();
    assert!(!gone(&router, "swp", Duration::from_millis(300)).await, "gone in spite of a handle");
    drop(pod);
    assert!(gone(&router, "swp", Duration::from_secs(10)).await, "something holds the namespace");
}

fn sysctl(value: &str) -> slicewire_kernel::Op {
    let key = "ipv4/ip_forward".to_owned();
    slicewire_kernel::Op::SetSysctl { key, value: value.to_owned() }
}
