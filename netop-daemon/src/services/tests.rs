//! What is in the kernel follows services one by one.

use slicewire_kernel::fake::FakeNetwork;

use super::names::tests::{service, slice, world};
use super::*;

const VIRTUAL: &str = "10.77.240.9";

struct Bed {
    network: FakeNetwork,
    ns: Ns,
    all: Translations,
    slice: Slice,
    world: World,
}

impl Bed {
    /// A router, and one service that leads to an address.
    async fn new(address: &str) -> Self {
        let network = FakeNetwork::new();
        let ns = network.create("sw-blue").await.unwrap();
        let world = world(service(false, address), true);
        let mut bed = Self { network, ns, all: Translations::default(), slice: slice(), world };
        bed.sync().await.unwrap();
        bed
    }

    async fn sync(&mut self) -> Result<(), slicewire_kernel::Error> {
        let want = want(&self.world, &self.slice, "n", BTreeSet::new(), Instant::now());
        self.all.sync(&self.network, "blue", &self.ns, want).await
    }

    /// What the virtual address leads to in the kernel; none where it is not known there.
    fn leads(&self) -> Option<Vec<String>> {
        let there = self.network.translation(self.ns.id())?;
        let virtual_one: IpAddr = VIRTUAL.parse().unwrap();
        let mut fronts = there.fronts.iter();
        let (_, balance) = fronts.find(|(front, _)| front.address == virtual_one)?;
        Some(balance.targets.iter().map(|t| t.address.to_string()).collect())
    }
}

#[tokio::test]
async fn a_changed_a_new_and_a_lost_service_are_in_the_kernel() {
    let mut bed = Bed::new("10.77.16.5").await;
    assert_eq!(bed.leads(), Some(vec!["10.77.16.5".to_owned()]));
    bed.world.services.insert("blue.shop.web".into(), service(false, "10.77.16.6"));
    bed.sync().await.unwrap();
    assert_eq!(bed.leads(), Some(vec!["10.77.16.6".to_owned()]));
    // The same service under another object's name, before and behind it.
    for name in ["a", "z"] {
        let entry = bed.world.services.pop_first().unwrap().1;
        bed.world.services.insert(name.into(), entry);
        bed.sync().await.unwrap();
        assert_eq!(bed.leads(), Some(vec!["10.77.16.6".to_owned()]));
    }
    bed.world.services.clear();
    bed.sync().await.unwrap();
    assert_eq!(bed.leads(), None);
}

#[tokio::test]
async fn a_cluster_that_no_tunnel_reaches_gets_no_connections() {
    let mut bed = Bed::new("10.77.16.5").await;
    bed.world.routes.values_mut().for_each(|said| said.tunnels[0].up = false);
    bed.sync().await.unwrap();
    assert_eq!(bed.leads(), Some(vec![]));
}

#[tokio::test]
async fn a_cluster_with_weight_0_gets_no_connections() {
    let mut bed = Bed::new("10.77.16.5").await;
    let west = ClusterName::parse("west").unwrap();
    bed.slice.balancing.weights = [(west.clone(), 0)].into();
    bed.sync().await.unwrap();
    assert_eq!(bed.leads(), Some(vec![]));
    bed.slice.balancing.weights = [(west, 7)].into();
    bed.sync().await.unwrap();
    assert_eq!(bed.leads(), Some(vec!["10.77.16.5".to_owned()]));
    bed.world.routes.values_mut().for_each(|said| said.tunnels[0].up = false);
    bed.sync().await.unwrap();
    assert_eq!(bed.leads(), Some(vec![]), "a weight reaches nobody");
}

#[tokio::test]
async fn an_exports_weight_of_0_is_followed_and_taken_back() {
    let mut bed = Bed::new("10.77.16.5").await;
    let west = ClusterName::parse("west").unwrap();
    let mut weigh = async |weights: &[u16]| {
        let mut planned = bed.world.services["blue.shop.web"].planned.clone();
        planned.import.weights = weights.iter().map(|weight| (west.clone(), *weight)).collect();
        let entry = ServiceEntry { slice: "blue".into(), planned };
        bed.world.services.insert("blue.shop.web".into(), Arc::new(entry));
        bed.sync().await.unwrap();
        bed.leads()
    };
    assert_eq!(weigh(&[0]).await, Some(vec![]));
    for weights in [&[7][..], &[]] {
        assert_eq!(weigh(weights).await, Some(vec!["10.77.16.5".to_owned()]));
    }
}

#[tokio::test]
async fn who_prefers_a_zone_follows_the_nodes_label() {
    let mut bed = Bed::new("10.77.16.5").await;
    let mut planned = bed.world.services["blue.shop.web"].planned.clone();
    let PlannedService { import, endpoints, .. } = &mut planned;
    import.distribution = Some("PreferSameZone".into());
    let (cluster, far) = endpoints.pop_first().unwrap();
    let own = |zone: &str, address: &str| slicewire_core::service::Endpoint {
        addresses: vec![address.parse().unwrap()],
        zone: Some(zone.into()),
        ..far[0].clone()
    };
    endpoints.insert(bed.slice.cluster.clone(), vec![own("a", "10.77.0.5"), own("b", "10.77.0.6")]);
    import.clusters = [bed.slice.cluster.clone(), cluster].into();
    let entry = ServiceEntry { slice: "blue".into(), planned };
    bed.world.services.insert("blue.shop.web".into(), Arc::new(entry));
    bed.sync().await.unwrap();
    assert_eq!(bed.leads().unwrap().len(), 2, "no zone is known");
    for (zone, to) in [("a", "10.77.0.5"), ("b", "10.77.0.6")] {
        bed.world.zone = Some(zone.to_owned());
        bed.sync().await.unwrap();
        assert_eq!(bed.leads(), Some(vec![to.to_owned()]));
    }
    bed.world.zone = Some("c".to_owned());
    bed.sync().await.unwrap();
    assert_eq!(bed.leads().unwrap().len(), 2, "nobody is near");
}

#[tokio::test]
async fn what_leaves_the_slice_is_taken_out() {
    let mut bed = Bed::new("10.77.16.5").await;
    bed.world.services.insert("blue.shop.web".into(), service(false, "192.0.2.5"));
    bed.sync().await.unwrap();
    assert_eq!(bed.leads(), None);
}

#[tokio::test]
async fn after_a_refusal_all_of_it_is_loaded_anew() {
    let mut bed = Bed::new("10.77.16.5").await;
    bed.network.flush_rules(bed.ns.id());
    bed.world.services.insert("blue.shop.web".into(), service(false, "10.77.16.6"));
    bed.sync().await.unwrap_err();
    assert_eq!(bed.leads(), None);
    bed.sync().await.unwrap();
    assert_eq!(bed.leads(), Some(vec!["10.77.16.6".to_owned()]));
}
