//! Get and list: answered from memory, to who may read it in Kubernetes.

use std::sync::Arc;

use slicewire_core::portal::filter::Filter;
use slicewire_core::portal::position::{Page, scope};
use slicewire_core::violation::Violation;
use tonic::Code;

use crate::Portal;
use crate::access::Deed;
use crate::fault::{Fault, Outcome};
use crate::feed::{Feed, Item};
use crate::gate::Call;
use crate::kind::{Json, Kind, namespace_of};
use crate::shape::resolve;

/// Objects on a page when the caller does not say.
const PAGE: i32 = 100;
/// Most objects on a page.
const MAX_PAGE: i32 = 500;

/// What a list is asked for.
#[derive(Debug, Default)]
pub(crate) struct ListArgs {
    /// The project; empty: all.
    pub(crate) project: String,
    /// Objects on a page; 0: as many as usual.
    pub(crate) size: i32,
    /// Where the page before ended.
    pub(crate) token: String,
    /// Which objects.
    pub(crate) filter: String,
}

/// What is looked through: one namespace or (`None`) all, and what is wanted of it.
#[derive(Debug)]
pub(crate) struct Selection {
    /// The namespace.
    pub(crate) namespace: Option<String>,
    /// Which objects.
    pub(crate) filter: Filter,
    /// The whole of it in short.
    pub(crate) scope: u64,
}

impl Selection {
    /// Reads a project and a filter.
    ///
    /// # Errors
    /// Every fault of both.
    pub(crate) fn parse<K: Kind>(project: &str, filter: &str) -> Result<Self, Vec<Violation>> {
        let mut faults = Vec::new();
        let namespace = match project {
            "" => None,
            project => namespace_of::<K>("project", project).map_err(|f| faults.extend(f)).ok(),
        };
        let parsed = Filter::parse("filter", filter).map_err(|f| vec![f]).and_then(|f| {
            f.with_paths(&mut |path| {
                resolve(K::MESSAGE, &path)
                    .map(|r| r.json)
                    .map_err(|why| Violation::new("filter", path.join("."), "UnknownField", why))
            })
        });
        let parsed = parsed.map_err(|f| faults.extend(f)).unwrap_or(Filter::Everything);
        let scope = scope(&[K::MESSAGE, project, filter]);
        if faults.is_empty() { Ok(Self { namespace, filter: parsed, scope }) } else { Err(faults) }
    }

    /// Whether an object is wanted.
    pub(crate) fn wants<M: serde::Serialize>(&self, item: &Item<M>) -> bool {
        self.filter == Filter::Everything || self.filter.matches(&Json(item.json()))
    }
}

/// Reads an object.
pub(crate) async fn get<K: Kind>(
    portal: &Portal,
    feed: &Feed<K>,
    call: &Call,
    project: &str,
    name: &str,
) -> Outcome<K::Message> {
    let mut faults = name_faults("name", name);
    let namespace = namespace_of::<K>("project", project).map_err(|f| faults.extend(f));
    let (Ok(namespace), []) = (namespace, faults.as_slice()) else {
        return Err(Fault::fields(faults));
    };
    let deed = Deed::with::<K::Object>("get", &namespace, name);
    portal.access.require(&call.caller, deed).await?;
    ready(feed).await?;
    let found = feed.get(&(namespace, name.to_owned()));
    found.map(|item| item.message.clone()).ok_or_else(|| {
        let place = if K::IN_PROJECT { format!(" in project {project:?}") } else { String::new() };
        Fault::new(
            Code::NotFound,
            "NotFound",
            format!("there is no {} {name:?}{place}", K::resource()),
        )
    })
}

/// Reads a page of objects; with the token of the next, empty when there is none.
pub(crate) async fn list<K: Kind>(
    portal: &Portal,
    feed: &Feed<K>,
    call: &Call,
    args: ListArgs,
) -> Outcome<(Vec<K::Message>, String)> {
    let mut faults = Vec::new();
    let selection = Selection::parse::<K>(&args.project, &args.filter);
    let selection = selection.map_err(|f| faults.extend(f)).ok();
    let size = page_size(args.size, &mut faults);
    let scope = selection.as_ref().map_or(0, |s| s.scope);
    let after = page_token(&args.token, scope, &mut faults);
    let (Some(selection), []) = (selection, faults.as_slice()) else {
        return Err(Fault::fields(faults));
    };
    let deed =
        Deed::with::<K::Object>("list", selection.namespace.as_deref().unwrap_or_default(), "");
    portal.access.require(&call.caller, deed).await?;
    ready(feed).await?;
    let after = after.map(|page| (page.namespace, page.name));
    let wanted = |item: &Item<K::Message>| selection.wants(item);
    // One more tells whether there is another page.
    let mut found = feed.list(selection.namespace.as_deref(), after.as_ref(), size + 1, wanted);
    let more = found.len() > size;
    found.truncate(size);
    let last = found.last().filter(|_| more).map(|item| item.key.clone());
    let next = last.map(|(namespace, name)| Page { scope, namespace, name }.to_string());
    let messages = found.iter().map(|item: &Arc<_>| item.message.clone()).collect();
    Ok((messages, next.unwrap_or_default()))
}

/// Waits for what was written before; refuses while the first list has not come in.
pub(crate) async fn ready<K: Kind>(feed: &Feed<K>) -> Outcome<()> {
    if !feed.is_synced() {
        return Err(Fault::unavailable(
            "the hub has just started and reads its objects; try again",
        ));
    }
    feed.caught_up().await;
    Ok(())
}

/// How many objects a page holds.
pub(crate) fn page_size(asked: i32, faults: &mut Vec<Violation>) -> usize {
    let size = if asked == 0 { PAGE } else { asked };
    if !(1..=MAX_PAGE).contains(&size) {
        let message = format!("must be from 1 to {MAX_PAGE}, or 0 for {PAGE}");
        faults.push(Violation::new("page_size", asked.to_string(), "PageSize", message));
    }
    usize::try_from(size).unwrap_or(1)
}

/// Where a list goes on, as the caller's token says.
pub(crate) fn page_token(text: &str, scope: u64, faults: &mut Vec<Violation>) -> Option<Page> {
    if text.is_empty() {
        return None;
    }
    let page = Page::parse(text);
    let why = match &page {
        None => "is not a page token; send next_page_token as it came",
        Some(page) if page.scope != scope && faults.is_empty() => {
            "is of another list: project and filter must be as they were"
        }
        Some(_) => return page,
    };
    faults.push(Violation::new("page_token", text, "PageToken", why));
    None
}

/// A name that can be in a path, and be an object's.
pub(crate) fn name_faults(field: &str, name: &str) -> Vec<Violation> {
    slicewire_core::name::check(field, name, 63)
}
