//! What the machine can do at all: fork, exec and waitpid, nothing recorded, nobody asked.

use std::process::{Child, Command};

use crate::runner::{Kind, Runner};
use crate::world::{Component, World, now};
use crate::{Result, proc};

/// Starts components and keeps nothing but their process handles.
#[derive(Default)]
pub struct Limit {
    children: Vec<Child>,
}

impl Limit {
    /// Waits for the end of the only component and starts it again.
    pub fn restart(&mut self, world: &World, component: &Component) -> Result<()> {
        let child = self.children.first_mut().ok_or("nothing was started")?;
        child.wait()?;
        *child = spawn(world, component)?;
        Ok(())
    }
}

fn spawn(world: &World, component: &Component) -> Result<Child> {
    Ok(Command::new(&world.program)
        .args(component.args(&world.log))
        .spawn()?)
}

impl Runner for Limit {
    fn name(&self) -> String {
        "limit".into()
    }

    fn kind(&self) -> Kind {
        Kind::Limit
    }

    fn fresh(&mut self, world: &mut World) -> Result<()> {
        self.down()?;
        world.next_round()?;
        Ok(())
    }

    fn apply(&mut self, world: &World, components: &[Component]) -> Result<i64> {
        let handed_over = now();
        for component in components {
            self.children.push(spawn(world, component)?);
        }
        Ok(handed_over)
    }

    /// Only for the row of crashes, where somebody has to do the supervisor's part.
    fn edit(&mut self, world: &World, components: &[Component], changed: usize) -> Result<i64> {
        let handed_over = now();
        self.restart(world, &components[changed])?;
        Ok(handed_over)
    }

    fn status(&self) -> Result<()> {
        Ok(())
    }

    fn running(&self) -> Result<Vec<u32>> {
        Ok(self.children.iter().map(Child::id).collect())
    }

    fn supervisor(&self) -> Result<u32> {
        Ok(std::process::id())
    }

    fn before_the_kill(&mut self) -> Result<()> {
        Err("there is nothing to kill".into())
    }

    fn revive(&mut self) -> Result<()> {
        Err("there is nothing to revive".into())
    }

    fn output(&self, _component: &str) -> Result<Vec<u8>> {
        Err("nothing is kept".into())
    }

    fn down(&mut self) -> Result<()> {
        for mut child in self.children.drain(..) {
            proc::kill(child.id());
            child.wait()?;
        }
        Ok(())
    }
}
