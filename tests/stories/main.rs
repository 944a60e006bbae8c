//! Stories on real Kubernetes: `cargo test -p slicewire-tests --test stories [-- NAME …]`.
//!
//! `KEEP=1` leaves the clusters running afterwards; they are used again by the next run.

mod faults;
mod life;
mod refusals;

use std::path::Path;
use std::process::ExitCode;

use slicewire_tests::story::{Story, run, say};
use slicewire_tests::world::World;

const STORIES: &[Story] = &[
    Story { name: "join", tell: life::join },
    Story { name: "running-pods", tell: life::running_pods },
    Story { name: "outsider", tell: life::outsider },
    Story { name: "restricted", tell: life::restricted },
    Story { name: "families", tell: life::families },
    Story { name: "same-prefix-two-slices", tell: life::same_prefix },
    Story { name: "two-slices-one-pod", tell: life::two_slices },
    Story { name: "injector-down", tell: life::injector_down },
    Story { name: "refusals", tell: refusals::bad_input },
    Story { name: "credential", tell: refusals::credential },
    Story { name: "restarts", tell: faults::restarts },
    Story { name: "gateway-deleted", tell: faults::gateway_deleted },
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
