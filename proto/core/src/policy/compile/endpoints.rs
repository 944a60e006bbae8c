//! The endpoints of a slice, by name and by address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::EndpointChange;
use crate::policy::model::{Endpoint, EndpointId};

/// All endpoints. Where two claim one address, the first by name has it.
#[derive(Debug, Default)]
pub(super) struct Endpoints {
    by_id: BTreeMap<EndpointId, Arc<Endpoint>>,
    owners: BTreeMap<IpAddr, Owner>,
}

#[derive(Debug)]
enum Owner {
    One(Arc<Endpoint>, EndpointId),
    Several(BTreeMap<EndpointId, Arc<Endpoint>>),
}

impl Owner {
    fn first(&self) -> Option<&Arc<Endpoint>> {
        match self {
            Self::One(endpoint, _) => Some(endpoint),
            Self::Several(all) => all.first_key_value().map(|(_, endpoint)| endpoint),
        }
    }
}

impl Endpoints {
    /// The endpoint of this name.
    pub(super) fn get(&self, id: &EndpointId) -> Option<&Endpoint> {
        self.by_id.get(id).map(|endpoint| &**endpoint)
    }

    /// The endpoint that has this address.
    pub(super) fn find(&self, address: IpAddr) -> Option<&Endpoint> {
        self.owners.get(&address)?.first().map(|endpoint| &**endpoint)
    }

    /// Every endpoint, also where another one has its address.
    pub(super) fn all(&self) -> impl Iterator<Item = &Endpoint> {
        self.by_id.values().map(|endpoint| &**endpoint)
    }

    /// Takes a change over; adds the addresses that may belong to something else now.
    pub(super) fn change(&mut self, change: EndpointChange, touched: &mut BTreeSet<IpAddr>) {
        match change {
            EndpointChange::Put(id, endpoint) => {
                if self.get(&id) == Some(&endpoint) {
                    return;
                }
                self.remove(&id, touched);
                let endpoint = Arc::new(endpoint);
                for address in &endpoint.addresses {
                    self.claim(*address, &id, &endpoint);
                    touched.insert(*address);
                }
                self.by_id.insert(id, endpoint);
            }
            EndpointChange::Gone(id) => self.remove(&id, touched),
        }
    }

    fn remove(&mut self, id: &EndpointId, touched: &mut BTreeSet<IpAddr>) {
        let Some(endpoint) = self.by_id.remove(id) else { return };
        for address in &endpoint.addresses {
            self.release(*address, id);
            touched.insert(*address);
        }
    }

    fn claim(&mut self, address: IpAddr, id: &EndpointId, endpoint: &Arc<Endpoint>) {
        let new = (id.clone(), endpoint.clone());
        match self.owners.get_mut(&address) {
            None => {
                self.owners.insert(address, Owner::One(new.1, new.0));
            }
            Some(Owner::Several(all)) => all.extend([new]),
            Some(owner) => {
                if let Owner::One(other, other_id) = owner {
                    let both = [(other_id.clone(), other.clone()), new];
                    *owner = Owner::Several(both.into());
                }
            }
        }
    }

    fn release(&mut self, address: IpAddr, id: &EndpointId) {
        match self.owners.get_mut(&address) {
            Some(Owner::Several(all)) => {
                all.remove(id);
                if all.is_empty() {
                    self.owners.remove(&address);
                }
            }
            Some(Owner::One(_, owner)) if owner == id => {
                self.owners.remove(&address);
            }
            _ => {}
        }
    }
}
