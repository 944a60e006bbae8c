//! One visit to a namespace: carrying operations out and listing what there is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::{Error as NetlinkError, Handle};
use slicewire_core::prefix::Family;

use crate::error::{Error, os_error};
use crate::model::{Address, Fdb, Link, LinkKind, Neighbour, Route, Rule, State};
use crate::netlink::{self, Connection, Dump, Names};
use crate::netns::{self, NsId};
use crate::op::{LinkChange, LinkEnd, Op};
use crate::port::OnError;
use crate::shape;
use crate::sysctl;

/// An open network namespace.
#[derive(Debug)]
pub(crate) struct Opened {
    /// Unset for the current namespace, where nobody has to move to.
    file: Option<File>,
    connection: Mutex<Connection>,
}

impl Opened {
    /// Opens a namespace and a connection to it.
    pub(crate) fn open(id: &NsId) -> io::Result<Self> {
        let file = id.open_other()?;
        let connection = Mutex::new(netns::inside(file.as_ref(), Connection::open)?);
        Ok(Self { file, connection })
    }

    /// Waits for its turn on the connection, and opens it anew if it was lost.
    pub(crate) fn visit(&self) -> io::Result<Visit<'_>> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        if connection.lost() {
            *connection = self.inside(Connection::open)?;
        }
        Ok(Visit { opened: self, connection, indexes: BTreeMap::new() })
    }

    /// Runs something with the calling thread in the namespace.
    pub(crate) fn inside<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        netns::inside(self.file.as_ref(), work)
    }
}

/// Exclusive use of the connection to a namespace for one list of operations.
pub(crate) struct Visit<'a> {
    opened: &'a Opened,
    connection: MutexGuard<'a, Connection>,
    indexes: BTreeMap<String, u32>,
}

impl Visit<'_> {
    pub(crate) fn carry_out_all(&mut self, id: &NsId, ops: &[Op], on_error: OnError) -> Vec<Error> {
        let mut errors = Vec::new();
        let mut rest = ops;
        while let Some((op, others)) = rest.split_first() {
            let sysctls = rest.iter().take_while(|op| matches!(op, Op::SetSysctl { .. })).count();
            if sysctls > 0 {
                let (now, later) = rest.split_at(sysctls);
                errors.extend(self.write_sysctls(id, now));
                rest = later;
            } else {
                let done = self.carry_out(op);
                errors.extend(done.err().map(|e| Error::new(op.operation(), op.object(), id, e)));
                rest = others;
            }
            if on_error == OnError::Stop && !errors.is_empty() {
                break;
            }
        }
        errors
    }

    /// Entering a namespace costs more than writing, so consecutive writes share one visit.
    fn write_sysctls(&self, id: &NsId, ops: &[Op]) -> Vec<Error> {
        let write = |op: &Op| {
            let Op::SetSysctl { key, value } = op else { return None };
            let error = sysctl::write(key, value).err()?;
            Some(Error::new(op.operation(), op.object(), id, error))
        };
        self.opened
            .inside(|| Ok(ops.iter().filter_map(write).collect()))
            .unwrap_or_else(|error| vec![Error::new("enter", "network namespace", id, error)])
    }

    pub(crate) fn carry_out(&mut self, op: &Op) -> io::Result<()> {
        match op {
            Op::AddVeth { end, peer_ns, peer } => self.add_veth(end, peer_ns, peer),
            Op::AddVxlan { end, into, vxlan } => {
                let target = into.open()?;
                let message = netlink::vxlan(end, target.as_raw_fd(), vxlan)?;
                let kind = LinkKind::Vxlan(vxlan.clone());
                self.add_link(message).or_else(|error| {
                    let there = Opened::open(into)?.visit()?.link(&end.name);
                    accept_existing(error, there.is_ok_and(|link| link.kind == kind))
                })
            }
            Op::AddWireguard { end } => {
                let message = netlink::wireguard(end)?;
                self.add_link(message).or_else(|error| {
                    let there = self.link(&end.name);
                    accept_existing(error, there.is_ok_and(|l| l.kind == LinkKind::Wireguard))
                })
            }
            Op::SetLink { dev, change } => {
                let target = change.move_to.as_ref().map(NsId::open).transpose()?;
                let fd = target.as_ref().map(AsRawFd::as_raw_fd);
                let message = netlink::change_link(self.index(dev)?, change, fd)?;
                if change.rename.is_some() || change.move_to.is_some() {
                    self.indexes.clear();
                }
                self.change(|h| h.link().change(message).execute())
            }
            Op::DeleteLink { dev } => {
                let Some(index) = gone(self.index(dev))? else { return Ok(()) };
                self.indexes.clear();
                self.delete(|h| h.link().del(index).execute())
            }
            Op::SetSysctl { key, value } => self.opened.inside(|| sysctl::write(key, value)),
            Op::AddFilterPlace { dev } => self.opened.inside(|| shape::add_filter_place(dev)),
            _ => self.carry_out_entry(op),
        }
    }

    /// Everything that is not a device.
    fn carry_out_entry(&mut self, op: &Op) -> io::Result<()> {
        match op {
            Op::ReplaceAddress(address) => {
                let index = self.index(&address.dev)?;
                self.change(|h| netlink::add_address(h, address, index).execute())
            }
            Op::DeleteAddress(address) => self.delete_on(&address.dev, |h, index| {
                h.address().del(netlink::delete_address(address, index)).execute()
            }),
            Op::ReplaceRoute(route) => {
                let message = netlink::new_route(route, &mut |dev| self.index(dev))?;
                self.change(|h| h.route().add(message).replace().execute())
            }
            Op::DeleteRoute { table, dst } => {
                let message = netlink::old_route(*table, dst)?;
                self.delete(|h| h.route().del(message).execute())
            }
            Op::AddRule(rule) => {
                let added = self.change(|h| netlink::add_rule(h, rule).execute());
                added.or_else(|error| accept_existing(error, true))
            }
            Op::DeleteRule(rule) => self.delete(|h| {
                let message = netlink::add_rule(h, rule).message_mut().clone();
                h.rule().del(message).execute()
            }),
            Op::ReplaceNeighbour(Neighbour { dev, addr, mac }) => {
                let index = self.index(dev)?;
                self.change(|h| {
                    h.neighbours().add(index, *addr).link_layer_address(&mac.0).replace().execute()
                })
            }
            Op::DeleteNeighbour { dev, addr } => self.delete_on(dev, |h, index| {
                let message = h.neighbours().add(index, *addr).message_mut().clone();
                h.neighbours().del(message).execute()
            }),
            Op::ReplaceFdb(entry) => {
                let index = self.index(&entry.dev)?;
                self.change(|h| netlink::fdb_entry(h, entry, index).execute())
            }
            Op::DeleteFdb(entry) => self.delete_on(&entry.dev, |h, index| {
                let message = netlink::fdb_entry(h, entry, index).message_mut().clone();
                h.neighbours().del(message).execute()
            }),
            _ => Err(Errno::EINVAL.into()),
        }
    }

    fn add_veth(&mut self, end: &LinkEnd, peer_ns: &NsId, peer: &LinkEnd) -> io::Result<()> {
        let target = peer_ns.open()?;
        // The kernel opens no cable that has one end only yet, so this end follows.
        let down = LinkEnd { up: false, ..peer.clone() };
        let message = netlink::veth(end, &down, target.as_raw_fd())?;
        let added = self.add_link(message);
        if added.is_ok() && !peer.up {
            return Ok(());
        }
        let there = Opened::open(peer_ns)?;
        if let Err(error) = added {
            // The same pair, or a name that is taken by something else?
            let other = there.visit()?.link(&peer.name);
            let same = self.link(&end.name).is_ok_and(|here| {
                other.is_ok_and(|there| {
                    here.peer == Some(there.index) && there.peer == Some(here.index)
                })
            });
            accept_existing(error, same)?;
        }
        if !peer.up {
            return Ok(());
        }
        let change = LinkChange::up(true);
        there.visit()?.carry_out(&Op::SetLink { dev: peer.name.clone(), change })
    }

    fn change<F>(&self, request: impl FnOnce(&Handle) -> F) -> io::Result<()>
    where
        F: Future<Output = Result<(), NetlinkError>>,
    {
        self.connection.change(request)
    }

    fn add_link(&mut self, message: LinkMessage) -> io::Result<()> {
        self.indexes.clear();
        self.change(|h| h.link().add(message).execute())
    }

    fn delete<F>(&self, request: impl FnOnce(&Handle) -> F) -> io::Result<()>
    where
        F: Future<Output = Result<(), NetlinkError>>,
    {
        gone(self.change(request)).map(|_| ())
    }

    fn delete_on<F>(&mut self, dev: &str, request: impl FnOnce(&Handle, u32) -> F) -> io::Result<()>
    where
        F: Future<Output = Result<(), NetlinkError>>,
    {
        match gone(self.index(dev))? {
            Some(index) => self.delete(|h| request(h, index)),
            None => Ok(()),
        }
    }

    pub(crate) fn index(&mut self, dev: &str) -> io::Result<u32> {
        if let Some(index) = self.indexes.get(dev) {
            return Ok(*index);
        }
        let index = self.link(dev)?.index;
        self.indexes.insert(dev.to_owned(), index);
        Ok(index)
    }

    fn link(&self, dev: &str) -> io::Result<Link> {
        let answer = self.connection.get(netlink::get_link(dev)?)?;
        netlink::link(&answer).ok_or_else(|| Errno::EPROTO.into())
    }

    pub(crate) fn find(&self, dev: &str) -> io::Result<Option<Link>> {
        gone(self.link(dev))
    }

    pub(crate) fn observe(&mut self) -> io::Result<State> {
        let links = self.links()?;
        let names = links.iter().map(|link| (link.index, link.name.clone())).collect();
        Ok(State {
            links,
            addresses: self.addresses(&names)?,
            routes: self.routes(&names)?,
            rules: self.rules()?,
            neighbours: self.neighbours(&names)?,
            fdb: self.fdb(&names)?,
        })
    }

    pub(crate) fn links(&mut self) -> io::Result<BTreeSet<Link>> {
        self.list([Dump::Links], netlink::link)
    }

    pub(crate) fn names(&mut self) -> io::Result<Names> {
        Ok(self.links()?.into_iter().map(|link| (link.index, link.name)).collect())
    }

    pub(crate) fn addresses(&mut self, names: &Names) -> io::Result<BTreeSet<Address>> {
        self.list([Dump::Addresses], |message| netlink::address(message, names))
    }

    pub(crate) fn routes(&mut self, names: &Names) -> io::Result<BTreeSet<Route>> {
        let dumps = [Dump::Routes(Family::V4), Dump::Routes(Family::V6)];
        self.list(dumps, |message| netlink::route(message, names))
    }

    pub(crate) fn rules(&mut self) -> io::Result<BTreeSet<Rule>> {
        self.list([Dump::Rules(Family::V4), Dump::Rules(Family::V6)], netlink::rule)
    }

    pub(crate) fn neighbours(&mut self, names: &Names) -> io::Result<BTreeSet<Neighbour>> {
        let dumps = [Dump::Neighbours(Family::V4), Dump::Neighbours(Family::V6)];
        self.list(dumps, |message| netlink::neighbour(message, names))
    }

    pub(crate) fn fdb(&mut self, names: &Names) -> io::Result<BTreeSet<Fdb>> {
        self.list([Dump::Fdb], |message| netlink::fdb(message, names))
    }

    fn list<T: Ord>(
        &mut self,
        dumps: impl IntoIterator<Item = Dump>,
        decode: impl Fn(&RouteNetlinkMessage) -> Option<T>,
    ) -> io::Result<BTreeSet<T>> {
        let mut all = BTreeSet::new();
        for what in dumps {
            let answers = self.connection.dump(&netlink::dump(what))?;
            all.extend(answers.iter().filter_map(&decode));
        }
        Ok(all)
    }
}

/// "Exists" on adding is success if what exists is what was to be added.
fn accept_existing(error: io::Error, same: bool) -> io::Result<()> {
    if same && os_error(&error) == Some(Errno::EEXIST) { Ok(()) } else { Err(error) }
}

/// "Gone" on deleting is success.
fn gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    let absent = [Errno::ENODEV, Errno::ENOENT, Errno::ESRCH, Errno::EADDRNOTAVAIL];
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if os_error(&error).is_some_and(|errno| absent.contains(&errno)) => Ok(None),
        Err(error) => Err(error),
    }
}
