//! What of members' words about their Services is taken, and what they are answered.

use std::collections::BTreeMap;

use slicewire_api::{ExportAnswer, ReportedService, ServiceConflict};
use slicewire_core::member::sentence;
use slicewire_core::name::ClusterName;
use slicewire_core::service::spec::is_label;
use slicewire_core::service::{Endpoint, Export, ServiceName};
use slicewire_core::violation::summary;

use super::observe::Observed;
use crate::hub::slice::observe::nets;

/// Most bytes of what a member is answered.
const MAX_MESSAGE: usize = 4096;

/// A Service that a cluster tells of, checked.
#[derive(Debug, Clone)]
pub(super) struct Said {
    pub(super) exported: bool,
    pub(super) export: Export,
    pub(super) endpoints: Vec<Endpoint>,
}

/// Everything that is taken, by service and cluster.
pub(super) type Taken = BTreeMap<ServiceName, BTreeMap<ClusterName, Said>>;

/// What clusters tell, and the answer to each place that something is told in.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) taken: Taken,
    pub(super) answers: BTreeMap<(ClusterName, usize), ExportAnswer>,
}

/// Reads every place.
pub(super) fn read(observed: &Observed) -> Read {
    let mut read = Read::default();
    for ((cluster, number), place) in &observed.places {
        let Some(said) = place.status.as_ref().and_then(|s| s.services.first()) else { continue };
        let Some(slice) = observed.slices.get(cluster) else { continue };
        let pools = nets(&slice.spec.pools);
        let mut answer = ExportAnswer {
            namespace: sentence(&said.namespace),
            name: sentence(&said.name),
            ..ExportAnswer::default()
        };
        match take(said, &read.taken, cluster, &pools) {
            Ok((name, service, message)) => {
                answer.accepted = true;
                answer.message = message;
                read.taken.entry(name).or_default().insert(cluster.clone(), service);
            }
            Err(message) => answer.message = message,
        }
        answer.message = cut(&answer.message);
        read.answers.insert((cluster.clone(), *number), answer);
    }
    read
}

fn take(
    said: &ReportedService,
    taken: &Taken,
    cluster: &ClusterName,
    pools: &[ipnet::IpNet],
) -> Result<(ServiceName, Said, String), String> {
    if !is_label(&said.namespace) || !is_label(&said.name) {
        return Err("the Service's namespace and name must be DNS labels".to_owned());
    }
    let name = ServiceName::new(&said.namespace, &said.name);
    if taken.get(&name).is_some_and(|by| by.contains_key(cluster)) {
        return Err(format!("{name} is told of twice by this cluster; the first one counts"));
    }
    let mut export = said.export().map_err(|faults| sentence(&summary(&faults)))?;
    // Nobody is older than the epoch, which is as old as anybody can claim to be.
    export.created = export.created.max(0);
    let (endpoints, faults) = said.believed(pools);
    let message = if faults.is_empty() { String::new() } else { sentence(&summary(&faults)) };
    Ok((name, Said { exported: said.exported, export, endpoints }, message))
}

fn cut(text: &str) -> String {
    let mut end = text.len().min(MAX_MESSAGE);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}

impl Read {
    /// Adds what is found out about a service to the answers of those who export it.
    pub(super) fn tell(
        &mut self,
        observed: &Observed,
        name: &ServiceName,
        conflicts: &[ServiceConflict],
        missing: Option<&str>,
    ) {
        let places = observed.places.keys();
        for place in places {
            let Some(answer) = self.answers.get_mut(place) else { continue };
            if answer.accepted && answer.namespace == name.namespace && answer.name == name.name {
                answer.conflicts = conflicts.to_vec();
                if let Some(missing) = missing {
                    answer.accepted = false;
                    answer.message = missing.to_owned();
                }
            }
        }
    }
}
