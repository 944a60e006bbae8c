//! Whether a project can be had under its name.

use kube::ResourceExt;
use slicewire_core::name::{MAX_PROJECT_NAME, ProjectName, check, project_namespace};
use slicewire_core::onboarding::SYSTEM_NAMESPACE;
use slicewire_core::violation::Violation;

use super::observe::Observed;

/// The project's name, or every fault.
pub(super) fn validate(observed: &Observed) -> Result<ProjectName, Vec<Violation>> {
    let name = observed.project.name_any();
    let field = "metadata.name";
    let project = ProjectName::parse(&name).map_err(|_| check(field, &name, MAX_PROJECT_NAME))?;
    if project_namespace(&project) == SYSTEM_NAMESPACE {
        let what = format!(
            "is taken: {SYSTEM_NAMESPACE} is where Slicewire itself runs; choose another name"
        );
        return Err(vec![Violation::new(field, name, "NameReserved", what)]);
    }
    Ok(project)
}
