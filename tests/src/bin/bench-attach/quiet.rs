//! Machines that have no part in the measurement.

use anyhow::Result;
use slicewire_testbed::Testbed;
use slicewire_tests::World;
use slicewire_tests::story::say;

/// Those of the cluster in which nothing is measured.
const OTHERS: [&str; 3] = ["west-cp", "west-1", "west-2"];

/// They are off as long as this is there.
pub(crate) struct Quiet<'w>(&'w Testbed);

impl<'w> Quiet<'w> {
    /// Switches them off.
    pub(crate) fn begin(world: &'w World) -> Result<Self> {
        // Switches on what was off before one failed.
        let quiet = Self(&world.testbed);
        for machine in OTHERS {
            quiet.0.power_off(machine)?;
        }
        say(&format!("{} are switched off until the end", OTHERS.join(", ")));
        Ok(quiet)
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        for machine in OTHERS {
            if let Err(error) = self.0.power_on(machine) {
                say(&format!("{machine} is still off: {error:#}"));
            }
        }
    }
}
