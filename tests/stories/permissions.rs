//! What credentials may do on the hub: everything that is written down, and nothing else.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use slicewire_tests::member::{Stolen, secret_of};
use slicewire_tests::world::World;

/// A kind of object as an API server serves it.
struct Resource {
    group: String,
    /// `/api/v1` or `/apis/<group>/<version>`.
    root: String,
    /// With a subresource behind a slash, if it is one.
    name: String,
    namespaced: bool,
    verbs: Vec<String>,
}

/// A right: group, resource, object (empty: any), verb.
type Right = (String, String, String, String);

/// Tries every verb of every resource in several namespaces with east's credential and with a
/// token's secret.
pub(crate) fn permissions(world: &mut World) -> Result<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/member-permissions.md");
    let page = std::fs::read_to_string(page).context("docs/member-permissions.md")?;
    let (worker, joiner) = page.split_once("## A token's secret").context("the page's parts")?;
    let resources = served(world)?;

    let member = world.stolen(&world.worker_token("east")?)?;
    let own = "slicewire-demo--east";
    let others = ["slicewire-demo--west", "slicewire-demo", "slicewire-system", "default"];
    let a = matrix(&member, &resources, own, &others, &rights(worker))?;

    // Who was granted more by mistake still finds a bound.
    let Err(error) = world.k("hub", &format!("-n {own} create secret generic extra")) else {
        bail!("a Secret can be made in a member's namespace");
    };
    ensure!(format!("{error:#}").contains("exceeded quota"), "{error:#}");

    let ticket = world.token(&["--cluster", "nobody"])?;
    let name = token_name(world, "nobody")?;
    let own = format!("slicewire-demo--join--{name}");
    let others = ["slicewire-demo--east", "slicewire-demo", "slicewire-system", "default"];
    let holder = world.stolen(&secret_of(&ticket))?;
    let b = matrix(&holder, &resources, &own, &others, &rights(joiner));
    world.k("hub", &format!("-n slicewire-demo delete jointoken {name}"))?;
    let b = b?;
    Ok(format!(
        "a worker: {} of {} tried requests allowed, as documented; a token: {} of {}",
        a.0, a.1, b.0, b.1
    ))
}

/// The name of the newest token for these clusters.
pub(crate) fn token_name(world: &World, clusters: &str) -> Result<String> {
    let tokens = world.get("hub", "-n slicewire-demo jointokens")?;
    let all = tokens["items"].as_array().context("no tokens")?;
    let of = all.iter().filter(|t| t["spec"]["clusters"] == clusters);
    let found = of.max_by_key(|t| t["metadata"]["creationTimestamp"].as_str().map(str::to_owned));
    Ok(found.and_then(|t| t["metadata"]["name"].as_str()).context("no such token")?.to_owned())
}

/// The rows of the page's tables.
fn rights(text: &str) -> BTreeSet<Right> {
    let mut rights = BTreeSet::new();
    for line in text.lines().filter(|l| l.starts_with("| ") && !l.starts_with("| API group")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [group, resource, name, verbs] = cells[..] else { continue };
        let group = if group == "core" { "" } else { group };
        for verb in verbs.split(", ") {
            let right = [group, resource, name, verb].map(str::to_owned);
            rights.insert(right.into());
        }
    }
    rights
}

/// Every resource of the hub's API server, newest version of each group.
fn served(world: &World) -> Result<Vec<Resource>> {
    let raw = |path: &str| -> Result<Value> {
        Ok(serde_json::from_str(&world.k("hub", &format!("get --raw {path}"))?)?)
    };
    let mut roots = vec![(String::new(), "/api/v1".to_owned())];
    for group in raw("/apis")?["groups"].as_array().context("no groups")? {
        let name = group["name"].as_str().unwrap_or_default();
        let version = group["preferredVersion"]["groupVersion"].as_str().unwrap_or_default();
        roots.push((name.to_owned(), format!("/apis/{version}")));
    }
    let mut all = Vec::new();
    for (group, root) in roots {
        for resource in raw(&root)?["resources"].as_array().into_iter().flatten() {
            let verbs = resource["verbs"].as_array().into_iter().flatten();
            all.push(Resource {
                group: group.clone(),
                root: root.clone(),
                name: resource["name"].as_str().unwrap_or_default().to_owned(),
                namespaced: resource["namespaced"] == true,
                verbs: verbs.filter_map(|v| v.as_str().map(str::to_owned)).collect(),
            });
        }
    }
    Ok(all)
}

/// Who am I, and what may I do: Kubernetes answers that to everybody, about themselves.
fn is_about_oneself(resource: &Resource) -> bool {
    resource.name.starts_with("selfsubject")
}

/// Tries everything; how many requests were allowed and how many were tried.
fn matrix(
    who: &Stolen,
    resources: &[Resource],
    own: &str,
    others: &[&str],
    rights: &BTreeSet<Right>,
) -> Result<(usize, usize)> {
    let (mut tried, mut allowed, mut wrong) = (0, 0, Vec::new());
    let mut seen = BTreeSet::new();
    for resource in resources.iter().filter(|r| !is_about_oneself(r)) {
        let places = if resource.namespaced {
            [own].into_iter().chain(others.iter().copied()).collect()
        } else {
            vec![""]
        };
        for place in places {
            for verb in &resource.verbs {
                for name in ["worker", "another"] {
                    let right = |name: &str| -> Right {
                        [resource.group.as_str(), &resource.name, name, verb]
                            .map(str::to_owned)
                            .into()
                    };
                    let granted = [right(""), right(name)].into_iter().find(|r| rights.contains(r));
                    let expected = place == own && granted.is_some();
                    let Some((method, path)) = request(resource, place, verb, name) else {
                        continue;
                    };
                    let body = (method == "PATCH" || method == "POST" || method == "PUT")
                        .then(|| json!({}));
                    let answer = who.ask(method, &path, body.as_ref())?;
                    tried += 1;
                    allowed += usize::from(!answer.is_denied());
                    if answer.is_denied() == expected {
                        wrong.push(format!("{method} {path}: {}", answer.code));
                    }
                    seen.extend(granted.filter(|_| expected));
                }
            }
        }
    }
    ensure!(wrong.is_empty(), "not as documented: {wrong:#?}");
    let untried: Vec<_> = rights.difference(&seen).collect();
    ensure!(untried.is_empty(), "documented, but never tried: {untried:?}");
    Ok((allowed, tried))
}

/// A request that needs the verb, and changes nothing where it is allowed. `None`: the verb takes no
/// object's name, and was tried with the first.
fn request(
    resource: &Resource,
    namespace: &str,
    verb: &str,
    name: &str,
) -> Option<(&'static str, String)> {
    let (kind, sub) = match resource.name.split_once('/') {
        Some((kind, sub)) => (kind, format!("/{sub}")),
        None => (resource.name.as_str(), String::new()),
    };
    let place =
        if namespace.is_empty() { String::new() } else { format!("/namespaces/{namespace}") };
    let all = format!("{}{place}/{kind}", resource.root);
    let one = format!("{all}/{name}{sub}");
    let dry = "?dryRun=All";
    let whole = sub.is_empty() && name == "worker";
    Some(match verb {
        "get" => ("GET", one),
        "update" => ("PUT", one + dry),
        "patch" => ("PATCH", one + dry),
        "delete" => ("DELETE", one + dry),
        "create" if !sub.is_empty() => ("POST", one + dry),
        "create" if whole => ("POST", all + dry),
        "list" if whole => ("GET", all),
        "watch" if whole => ("GET", all + "?watch=1&timeoutSeconds=1"),
        "deletecollection" if whole => ("DELETE", all + dry),
        _ => return None,
    })
}
