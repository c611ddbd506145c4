//! The queue of tasks that are due: first in, first out, and out of the middle by its place.

/// A queue whose items can be taken out of the middle in constant time, by the place they were given: a ring, in
/// which the item of a place stands at that place modulo the ring's size.
///
/// What is taken out of the middle leaves a gap; `back - front = items + gaps`. Once gaps outnumber items, the next
/// that is taken out closes them; those that the front passes are gone by themselves.
///
/// Of its fields only the first two change while items flow through it; see [`State`](super::state::State).
#[repr(C)]
pub(crate) struct Queue<T> {
    /// The first place that is not empty, if there is one.
    front: u64,
    /// The place that the next item is given.
    back: u64,
    gaps: usize,
    /// None at all, or a power of two of them.
    ring: Box<[Option<T>]>,
}

/// The smallest ring; and with fewer places than that in use, gaps are not worth closing.
const SMALL: usize = 64;

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Queue { front: 0, back: 0, gaps: 0, ring: Box::default() }
    }
}

impl<T> Queue<T> {
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.places() - self.gaps
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.front == self.back
    }

    /// Up to here all places have been passed.
    #[inline]
    pub(crate) fn front(&self) -> u64 {
        self.front
    }

    /// From here on no place has been given.
    #[inline]
    pub(crate) fn back(&self) -> u64 {
        self.back
    }

    #[inline]
    fn places(&self) -> usize {
        (self.back - self.front) as usize
    }

    #[inline]
    fn slot(&mut self, place: u64) -> &mut Option<T> {
        let mask = self.ring.len() - 1;
        &mut self.ring[place as usize & mask]
    }

    /// Appends what `item` makes for the place that it is given.
    #[inline]
    pub(crate) fn push(&mut self, item: impl FnOnce(u64) -> T) {
        if self.places() == self.ring.len() {
            self.resize((2 * self.ring.len()).max(SMALL));
        }
        let place = self.back;
        *self.slot(place) = Some(item(place));
        self.back += 1;
    }

    #[inline]
    pub(crate) fn pop(&mut self) -> Option<T> {
        if self.is_empty() {
            self.rest();
            return None;
        }
        let item = self.slot(self.front).take();
        self.front += 1;
        self.pass_gaps();
        item
    }

    /// A burst's memory is given back once it is over.
    fn rest(&mut self) {
        if self.ring.len() > SMALL * SMALL {
            self.ring = Box::default();
        }
    }

    #[inline]
    fn pass_gaps(&mut self) {
        while self.gaps > 0 && self.slot(self.front).is_none() {
            self.front += 1;
            self.gaps -= 1;
        }
    }

    #[cold]
    fn resize(&mut self, size: usize) {
        let new = std::iter::repeat_with(|| None).take(size).collect();
        let mut old = Queue { ring: std::mem::replace(&mut self.ring, new), ..*self };
        for place in self.front..self.back {
            *self.slot(place) = old.slot(place).take();
        }
    }

    fn holds(&self, place: u64) -> bool {
        (self.front..self.back).contains(&place)
    }

    pub(crate) fn get(&self, place: u64) -> Option<&T> {
        if !self.holds(place) {
            return None;
        }
        self.ring[place as usize & (self.ring.len() - 1)].as_ref()
    }

    /// Takes out what stands at `place`. `moved` is told of each item that gets another place by that.
    pub(crate) fn remove(&mut self, place: u64, moved: impl FnMut(&T, u64)) -> Option<T> {
        if !self.holds(place) {
            return None;
        }
        let item = self.slot(place).take()?;
        self.gaps += 1;
        self.pass_gaps();
        if self.places() > SMALL && self.gaps > self.len() {
            self.close_gaps(moved);
        }
        Some(item)
    }

    fn close_gaps(&mut self, mut moved: impl FnMut(&T, u64)) {
        let mut to = self.front;
        for from in self.front..self.back {
            if let Some(item) = self.slot(from).take() {
                moved(&item, to);
                *self.slot(to) = Some(item);
                to += 1;
            }
        }
        self.back = to;
        self.gaps = 0;
        let size = (2 * self.places()).next_power_of_two().max(SMALL);
        if size < self.ring.len() {
            self.resize(size);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        (self.front..self.back).filter_map(|place| self.get(place))
    }

    /// Takes everything out, in order.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = T> + use<T> {
        let mut all = std::mem::take(self);
        self.front = all.back;
        self.back = all.back;
        std::iter::from_fn(move || all.pop())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::Cell;

    fn filled(n: usize) -> (Queue<usize>, Vec<Cell<u64>>) {
        let mut queue = Queue::default();
        let places: Vec<_> = (0..n).map(|_| Cell::new(0)).collect();
        for (i, cell) in places.iter().enumerate() {
            queue.push(|place| {
                cell.set(place);
                i
            });
        }
        (queue, places)
    }

    #[test]
    fn an_item_is_found_by_its_place_until_it_is_gone() {
        let (mut queue, places) = filled(3);
        assert_eq!(queue.pop(), Some(0));
        assert_eq!(queue.remove(places[0].get(), |_, _| ()), None);
        assert_eq!(queue.remove(places[2].get(), |_, _| ()), Some(2));
        assert_eq!(queue.remove(places[2].get(), |_, _| ()), None);
        assert_eq!((queue.len(), queue.get(places[1].get())), (1, Some(&1)));
        assert_eq!((queue.pop(), queue.pop()), (Some(1), None));
    }

    #[test]
    fn gaps_do_not_outnumber_items() {
        let (mut queue, places) = filled(10_000);
        for i in (1..10_000).filter(|i| i % 10 != 0) {
            let place = places[i].get();
            let moved = |item: &usize, place| places[*item].set(place);
            assert_eq!(queue.remove(place, moved), Some(i));
        }
        assert!(queue.places() <= SMALL.max(2 * queue.len()));
        assert_eq!(queue.drain().collect::<Vec<_>>(), (0..10_000).step_by(10).collect::<Vec<_>>());
        assert!(queue.is_empty());
    }

    #[derive(Clone, Copy, Debug)]
    enum Op {
        Push,
        Pop,
        Remove(usize),
        Drain,
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let op = prop_oneof![
            30 => Just(Op::Push),
            12 => Just(Op::Pop),
            20 => any::<usize>().prop_map(Op::Remove),
            1 => Just(Op::Drain)
        ];
        // So many that gaps are closed.
        prop::collection::vec(op, 1..600)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_is_a_vec_whose_items_know_their_places(ops in ops(), start in 0..200_usize) {
            let mut queue = Queue::default();
            // What the items know: their place, while they are in the queue.
            let places = std::cell::RefCell::new(Vec::new());
            let mut model: Vec<usize> = Vec::new();
            for op in std::iter::repeat_n(Op::Push, start).chain(ops) {
                match op {
                    Op::Push => queue.push(|place| {
                        let item = places.borrow().len();
                        places.borrow_mut().push(place);
                        model.push(item);
                        item
                    }),
                    Op::Pop => {
                        let first = (!model.is_empty()).then(|| model.remove(0));
                        prop_assert_eq!(queue.pop(), first);
                    }
                    Op::Remove(which) if !model.is_empty() => {
                        let item = model.remove(which % model.len());
                        let place = places.borrow()[item];
                        let removed = queue.remove(place, |&item, place| places.borrow_mut()[item] = place);
                        prop_assert_eq!(removed, Some(item));
                        prop_assert!(queue.places() <= SMALL.max(2 * queue.len()) + 1);
                        if let Some(other) = queue.get(place) {
                            prop_assert_eq!(places.borrow()[*other], place, "another item moved there");
                        }
                    }
                    Op::Remove(_) => {}
                    Op::Drain => {
                        let all: Vec<_> = queue.drain().collect();
                        prop_assert_eq!(all, std::mem::take(&mut model));
                    }
                }
                prop_assert_eq!((queue.len(), queue.is_empty()), (model.len(), model.is_empty()));
            }
            prop_assert_eq!(queue.iter().copied().collect::<Vec<_>>(), model.clone());
            for item in model {
                prop_assert_eq!(queue.get(places.borrow()[item]), Some(&item));
            }
        }
    }
}
