//! Our server, with what a node is told of services.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;

use anyhow::{Result, anyhow};
use slicewire_core::dns::{Service, View};
use slicewire_core::name::{ClusterName, SliceName};
use slicewire_core::prefix::Family;
use slicewire_core::service::balance::Here;
use slicewire_core::service::model::{
    Affinity, Endpoint, Import, InternalTraffic, Kind, Numbers, Port, Protocol, ServiceName,
};
use slicewire_dns::{Known, Limits, Names, Sockets};
use tokio_util::sync::CancellationToken;

use crate::names::{Number, PORT_NAME};

/// A service as the daemon keeps it.
struct Told {
    import: Import,
    addresses: Vec<IpAddr>,
    endpoints: BTreeMap<ClusterName, Vec<Endpoint>>,
}

/// Serves until it is killed; says so when it is ready. One thread does all of it, as in the daemon.
#[tokio::main(flavor = "current_thread")]
pub(crate) async fn serve(services: u32, endpoints: u32, port: u16) -> Result<()> {
    let cluster = ClusterName::parse("east").map_err(|_| anyhow!("no cluster's name"))?;
    let slice = SliceName::parse("blue").map_err(|_| anyhow!("no slice's name"))?;
    let reach = BTreeMap::new();
    let here = Here {
        cluster: &cluster,
        node: "east-1",
        zone: None,
        reach: &reach,
        spread: Default::default(),
    };
    let mut view = View::default();
    view.set_slice(&slice, &["10.0.0.0/8".parse()?]);
    let all: Vec<Told> = (0..services).map(|s| told(Number(s), endpoints, &cluster)).collect();
    for (number, told) in (0..).map(Number).zip(&all) {
        let service = Service::of(&told.import, true, &told.addresses, &told.endpoints, here);
        let name = ServiceName::new(number.namespace(), number.name());
        view.set(&slice, &name, Some(service));
    }
    let names = Names::new(&Limits { per_client: NonZeroU32::MAX, ..Limits::default() });
    names.publish(Known { view, askers: BTreeMap::new() });
    let sockets = Sockets::bind((Ipv4Addr::LOCALHOST, port).into())?;
    writeln!(std::io::stdout(), "ready")?;
    slicewire_dns::serve(sockets, names, CancellationToken::new()).await;
    // The daemon keeps what it was told, too.
    drop(all);
    Ok(())
}

fn told(number: Number, endpoints: u32, cluster: &ClusterName) -> Told {
    let port =
        Port { name: PORT_NAME.to_owned(), protocol: Protocol::Tcp, port: 80, app_protocol: None };
    let ports = Numbers::new([((Protocol::Tcp, PORT_NAME.to_owned()), 8080)].into());
    let endpoint = |e: u32| Endpoint {
        addresses: vec![number.endpoint(e).into()],
        ports: ports.clone(),
        hostname: number.headless().then(|| format!("{}-{e}", number.name())),
        node: Some(format!("east-{}", e % 3)),
        ready: true,
        serving: true,
        ..Endpoint::default()
    };
    let import = Import {
        kind: if number.headless() { Kind::Headless } else { Kind::ClusterSetIp },
        ports: vec![port],
        affinity: Affinity::None,
        internal_traffic: InternalTraffic::Cluster,
        distribution: None,
        families: BTreeSet::from([Family::V4]),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        clusters: BTreeSet::from([cluster.clone()]),
        weights: BTreeMap::new(),
    };
    let all = (0..endpoints).map(endpoint).collect();
    Told {
        import,
        addresses: vec![number.virtual_address().into()],
        endpoints: BTreeMap::from([(cluster.clone(), all)]),
    }
}
