//! A portal's page in a browser: a client generated from the .proto files, called from the page's own
//! origin.

mod page;
mod site;
mod visit;

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use slicewire_tests::portal::{NAME, Portal};
use slicewire_tests::world::World;

use self::site::Site;
use self::visit::{Trust, Visit};
use super::everything;

/// A pod that comes while the page watches.
const GUEST: &str = "browsed";
/// Longest until a page that is refused has said so; a new browser takes some seconds.
const SOON: Duration = Duration::from_secs(40);

/// The page works where its origin is listed, and nowhere else; and only a browser that trusts the hub's
/// certificate talks to the hub at all.
pub(crate) fn browser(world: &mut World) -> Result<String> {
    let portal = world.portal()?;
    let seen = visits(world, &portal);
    let _ = world.k("east", &format!("-n shop delete pod {GUEST} --ignore-not-found --wait=false"));
    let restored = allow(world, &portal, "");
    world.remove_portal();
    let seen = seen?;
    restored?;
    Ok(seen)
}

fn visits(world: &World, portal: &Portal) -> Result<String> {
    let token = world.caller("browsing", true, &everything())?;
    let folder = tempfile::tempdir()?;
    let script = page::bundle(portal, folder.path(), &token)?;
    let hub = format!("https://{NAME}:9443");
    let wish = json!({"hub": hub, "token": token, "project": "demo", "slice": "blue"});
    let site = || Site::open(&portal.runtime, &script, &wish);
    let (mut listed, mut other, mut distrustful) = (site()?, site()?, site()?);
    allow(world, portal, &format!("{},{}", listed.origin, distrustful.origin))?;
    let visit = Visit::to(&listed.origin, portal, Trust::Hub)?;
    let seen = works(world, &mut listed).with_context(|| visit.said());
    let seen = seen.context("the page of a listed origin")?;
    refused(portal, &mut other, Trust::Hub).context("the page of another origin")?;
    refused(portal, &mut distrustful, Trust::Nobody).context("a certificate not trusted")?;
    Ok(seen)
}

/// Lets pages of these origins call, as the chart's `api.origins` does; none with an empty text.
fn allow(world: &World, portal: &Portal, origins: &str) -> Result<()> {
    let hub = "-n slicewire-system";
    world.k("hub", &format!("{hub} set env deployment/slicewire-hub API_ORIGINS={origins}"))?;
    world.k("hub", &format!("{hub} rollout status deployment/slicewire-hub --timeout=120s"))?;
    World::wait("only the new hub is there", 60, || {
        let pods =
            world.get("hub", &format!("{hub} pods -l app.kubernetes.io/name=slicewire-hub"))?;
        let pods = pods["items"].as_array().map_or(0, Vec::len);
        ensure!(pods == 1, "{pods} pods");
        portal.runtime.block_on(portal.connect()).map(drop)
    })
}

/// The page does all that it is there for.
fn works(world: &World, site: &mut Site<'_>) -> Result<String> {
    let listed = site.told("listed", SOON)?;
    ensure!(listed["slices"].as_array().is_some_and(|s| s.contains(&json!("blue"))), "{listed}");
    let refused = site.told("refused", SOON)?;
    ensure!(refused["code"] == "InvalidArgument", "{refused}");
    let fields: Vec<&str> =
        refused["fields"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let names = |part: &str| fields.iter().any(|field| field.contains(part));
    ensure!(names("prefixes") && names("mtu"), "not every field is named: {refused}");
    ensure!(refused["reasons"][0].is_string() && refused["requestId"].is_string(), "{refused}");
    let first = site.told("watched", SOON)?;
    ensure!(first["tunnels"] == 2, "{first}");
    let pods = first["pods"].as_i64().context("no pods are told")?;
    world.pod("east", "shop", GUEST, None)?;
    for _ in 0..50 {
        let told = site.told("watched", SOON).context("a new pod on the slice is not told")?;
        if told["pods"].as_i64().is_some_and(|now| now > pods) {
            let fields = fields.len();
            return Ok(format!(
                "a page lists slices, is told of {fields} wrong fields, and sees a pod come"
            ));
        }
    }
    bail!("the page was not told of a new pod on the slice")
}

/// The page gets nothing from the hub.
fn refused(portal: &Portal, site: &mut Site<'_>, trust: Trust) -> Result<()> {
    let reason = match trust {
        Trust::Hub => "blocked by CORS policy",
        // ERR_CERT_AUTHORITY_INVALID
        Trust::Nobody => "net_error -202",
    };
    let visit = Visit::to(&site.origin, portal, trust)?;
    let told = site.told("failed", SOON).with_context(|| visit.said())?;
    World::wait("the browser says why", 10, || {
        let said = visit.said();
        ensure!(said.contains(reason), "{told}, and not because of {reason}: {said}");
        Ok(())
    })
}
