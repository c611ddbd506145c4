//! The notifier: one thread, outside of `max_threads`, that tells the hooks of attempts that hang, and of those
//! that have recovered. A hook that blocks here holds up nothing but other notices.

use super::lifecycle::deliver_notices;
use super::state::Effects;
use super::{Core, callout, drop_record};
use crate::hooks::Copy;
use crate::sync::Arc;

pub(crate) fn run<Meta>(core: &Arc<Core<'_, Meta>>) {
    let mut hooks = Copy::default();
    let mut state = core.lock();
    // Held until its starter has recorded that it was granted.
    while state.notifier.starting {
        core.starts.wait(&mut state);
    }
    drop(state);
    loop {
        while let Some((hand, task)) = core.root.bell.answer() {
            let Some((record, control)) = core.lock().holding(hand, task) else { continue };
            let inside = callout::enter_to_notify(core.identity(), hand);
            deliver_notices(core, hooks.now(&core.shelf), &control, &record.meta);
            drop_record(core, Some(record));
            drop(inside);
        }
        let mut fx = Effects::default();
        let mut state = core.lock();
        if state.notifier_may_leave() {
            drop(state);
            let inside = callout::enter(core.identity(), usize::MAX);
            let copy = std::mem::take(&mut hooks);
            core.call_out(|| drop(copy));
            drop(inside);
            state = core.lock();
            if state.notifier_may_leave() {
                state.notifier_leaves(&mut fx);
                core.root.bell.clear();
                drop(state);
                return core.apply(fx);
            }
        }
        core.root.bell.recall();
    }
}
