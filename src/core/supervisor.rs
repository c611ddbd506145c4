//! The supervisor: one thread that keeps the clock for everything that waits for its time, looks at the
//! backlog, and at attempts that may hang. It never runs code of the user's.

use super::state::Effects;
use super::{Core, Role};
use crate::sync::Arc;

pub(crate) fn run<Meta>(core: &Arc<Core<'_, Meta>>) {
    let mut state = core.lock();
    // Held until its starter has recorded that it was granted.
    while state.supervisor.starting {
        core.supervisor.wait(&mut state);
    }
    loop {
        let now = core.now();
        let mut fx = Effects::default();
        let mut rings = Vec::new();
        let next = state.supervise(now, &mut fx, &mut rings);
        let Some(until) = next else {
            state.supervisor_leaves(&mut fx);
            drop(state);
            return core.apply(fx);
        };
        // One that was refused is asked for again while somebody has rung in vain.
        let start_notifier = (!rings.is_empty() || core.root.bell.is_rung()) && state.wants_notifier(now);
        if fx.is_empty() && rings.is_empty() && !start_notifier {
            core.supervisor.wait_until(&mut state, &core.root.clock, until);
            continue;
        }
        drop(state);
        for (hand, task) in rings {
            core.root.bell.ring(hand, task);
        }
        if start_notifier {
            start(core, &mut fx);
        }
        core.apply(fx);
        state = core.lock();
    }
}

fn start<Meta>(core: &Arc<Core<'_, Meta>>, fx: &mut Effects) {
    let started = core.start(Role::Notifier, &format!("{}-notifier", core.config.name));
    let now = core.now();
    let mut state = core.lock();
    match started {
        Ok(()) => state.notifier_lives(fx),
        Err(_) => state.notifier_refused(now, fx),
    }
}
