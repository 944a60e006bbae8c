//! Stories on real Kubernetes: `cargo test -p slicewire-tests --test stories [-- NAME …]`.
//!
//! `KEEP=1` leaves the clusters running afterwards; they are used again by the next run.

mod certificates;
mod dns;
mod faults;
mod hostile;
mod keys;
mod life;
mod membership;
mod node_local;
mod permissions;
mod policy;
mod portal;
mod quality;
mod refusals;
mod services;

use std::path::Path;
use std::process::ExitCode;

use slicewire_tests::story::{Story, run, say};
use slicewire_tests::world::World;

const STORIES: &[Story] = &[
    Story { name: "join", tell: life::join },
    Story { name: "running-pods", tell: life::running_pods },
    Story { name: "outsider", tell: life::outsider },
    Story { name: "quality", tell: quality::quality },
    Story { name: "keys", tell: keys::keys },
    Story { name: "restricted", tell: life::restricted },
    Story { name: "families", tell: life::families },
    Story { name: "same-prefix-two-slices", tell: life::same_prefix },
    Story { name: "two-slices-one-pod", tell: life::two_slices },
    Story { name: "injector-down", tell: life::injector_down },
    Story { name: "refusals", tell: refusals::bad_input },
    Story { name: "policy-refusals", tell: policy::refusals },
    Story { name: "policy", tell: policy::policy },
    Story { name: "services", tell: services::services },
    Story { name: "services-cut-off", tell: services::cut_off },
    Story { name: "services-weights", tell: services::weights },
    Story { name: "node-local-dns", tell: node_local::node_local },
    Story { name: "export-refusals", tell: services::export_refusals },
    Story { name: "policy-preview", tell: policy::preview },
    Story { name: "policy-standard", tell: policy::standard },
    Story { name: "policy-isolation", tell: policy::isolation },
    Story { name: "policy-spoofing", tell: policy::spoofing },
    Story { name: "policy-first-packet", tell: policy::first_packet },
    Story { name: "permissions", tell: permissions::permissions },
    Story { name: "api-rights", tell: portal::rights },
    Story { name: "api-calls", tell: portal::calls },
    Story { name: "api-watch", tell: portal::watch },
    Story { name: "api-services", tell: portal::services },
    Story { name: "api-live", tell: portal::live },
    Story { name: "api-joining", tell: portal::joining },
    Story { name: "api-rotation", tell: portal::rotation },
    Story { name: "api-web", tell: portal::web },
    Story { name: "api-clients", tell: portal::clients },
    Story { name: "api-browser", tell: portal::browser },
    Story { name: "tokens", tell: membership::tokens },
    Story { name: "join-again", tell: membership::join_again },
    Story { name: "hostile-member", tell: hostile::hostile_member },
    Story { name: "hostile-token", tell: hostile::hostile_token },
    Story { name: "evict", tell: membership::evict },
    Story { name: "leave", tell: membership::leave },
    Story { name: "dns-rollback", tell: dns::rollback },
    Story { name: "restarts", tell: faults::restarts },
    Story { name: "certificates", tell: certificates::certificates },
    Story { name: "gateway-deleted", tell: faults::gateway_deleted },
    Story { name: "runtime-restarted", tell: faults::runtime_restarted },
    Story { name: "without-hook", tell: faults::without_hook },
    Story { name: "power", tell: faults::power },
    Story { name: "churn", tell: life::churn },
    Story { name: "label-removed", tell: life::label_removed },
    Story { name: "before-after", tell: life::before_after },
    Story { name: "uninstall", tell: life::uninstall },
];

fn main() -> ExitCode {
    let chosen: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut world = match root.canonicalize().map_err(Into::into).and_then(|r| World::up(&r)) {
        Ok(world) => world,
        Err(error) => {
            say(&format!("the clusters did not come up: {error:?}\n0 passed, 1 failed"));
            return ExitCode::FAILURE;
        }
    };
    let code = run(&mut world, STORIES, &chosen);
    if std::env::var_os("KEEP").is_none()
        && let Err(error) = World::down()
    {
        say(&format!("the testbed did not go down: {error:?}\n0 passed, 1 failed"));
        return ExitCode::FAILURE;
    }
    code
}
