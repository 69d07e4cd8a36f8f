//! The tasks of a session, in the order in which they came: which may be done now, and which are given
//! up (SAM-5, chapter 8).

use parking_lot::{Condvar, Mutex};

use super::wire::Attribute;

/// Immediate tasks that a session may have at a time.
const MOST_IMMEDIATE: usize = 8;

/// What has a task done once it is its turn: it is quickly over, and others do what takes long.
pub type Job = Box<dyn FnOnce() + Send>;

/// The tasks of a session.
#[derive(Default)]
pub struct Order {
    tasks: Mutex<Tasks>,
    /// Signalled when a task has ended that was given up.
    ended: Condvar,
}

#[derive(Default)]
struct Tasks {
    next: u64,
    /// Oldest first.
    unfinished: Vec<Task>,
    /// Of these, how many are not simple.
    special: usize,
    /// No more tasks: the session ends.
    closed: bool,
}

struct Task {
    number: u64,
    tag: u32,
    attribute: Attribute,
    /// Whether it has a command number of its own.
    is_numbered: bool,
    state: State,
    /// Its initiator gets no answer.
    is_given_up: bool,
}

enum State {
    /// Its data are coming in.
    Collecting,
    /// It could be done, but is not its turn.
    Waiting(Job),
    /// It is its turn, and a thread will do it.
    Queued,
    /// It is being done.
    Running,
    /// It is done but for its answer, and waits for others to end.
    Resting,
}

/// Why a task is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Another has its tag.
    TagInUse,
    /// The session ends.
    Closed,
    /// There are too many that have no number, and so no window.
    TooMany,
}

/// What became of a task that was to be done.
pub enum Turn {
    /// It is its turn: do it.
    Now(Job),
    /// It is done later, by whoever ends what it waits for.
    Later,
    /// It was given up meanwhile.
    GivenUp,
}

impl Order {
    /// A task has come. Returns its number.
    ///
    /// # Errors
    /// Where it can't be taken.
    pub fn begin(&self, tag: u32, attribute: Attribute, is_numbered: bool) -> Result<u64, Refused> {
        let mut tasks = self.tasks.lock();
        if tasks.closed {
            return Err(Refused::Closed);
        }
        if tasks.unfinished.iter().any(|task| task.tag == tag) {
            return Err(Refused::TagInUse);
        }
        let immediate = tasks.unfinished.iter().filter(|task| !task.is_numbered);
        if !is_numbered && immediate.count() >= MOST_IMMEDIATE {
            return Err(Refused::TooMany);
        }
        let number = tasks.next;
        tasks.next += 1;
        tasks.special += usize::from(attribute != Attribute::Simple);
        tasks.unfinished.push(Task {
            number,
            tag,
            attribute,
            is_numbered,
            state: State::Collecting,
            is_given_up: false,
        });
        Ok(number)
    }

    /// All of a task's data are there: whether it can be done at once, by the caller.
    pub fn start(&self, number: u64) -> bool {
        self.tasks.lock().enter(number, State::Running)
    }

    /// As [`start`](Self::start), by a thread that calls [`run`](Self::run) when it comes to it.
    pub fn queue(&self, number: u64) -> bool {
        self.tasks.lock().enter(number, State::Queued)
    }

    /// A thread comes to a task that was left to it. Whether it is to do it: where it was given up
    /// meanwhile, nothing of it happens.
    pub fn run(&self, number: u64) -> bool {
        let mut tasks = self.tasks.lock();
        let task = tasks.get(number);
        task.map(|task| task.state = State::Running).is_some()
    }

    /// All that a task does is done, but that it waits for others before it is answered: those need not wait
    /// for it. Two that wait for each other would do so for ever.
    pub fn rest(&self, number: u64) {
        let mut tasks = self.tasks.lock();
        if let Some(task) = tasks.get(number) {
            task.state = State::Resting;
        }
        self.ended.notify_all();
    }

    /// As [`queue`](Self::queue); where it is not its turn, `job` is kept until it is.
    pub fn start_or_wait(&self, number: u64, job: Job) -> Turn {
        let mut tasks = self.tasks.lock();
        let is_turn = tasks.is_turn_of(number);
        match tasks.get(number) {
            None => Turn::GivenUp,
            Some(task) if task.is_given_up => {
                self.remove(&mut tasks, number);
                Turn::GivenUp
            }
            Some(task) if is_turn => {
                task.state = State::Queued;
                Turn::Now(job)
            }
            Some(task) => {
                task.state = State::Waiting(job);
                Turn::Later
            }
        }
    }

    /// Whether a task was given up: nothing must be answered.
    pub fn is_given_up(&self, number: u64) -> bool {
        let mut tasks = self.tasks.lock();
        tasks.get(number).is_none_or(|task| task.is_given_up)
    }

    /// A task is done. Returns the jobs whose turn it is now.
    pub fn end(&self, number: u64) -> Vec<Job> {
        let mut tasks = self.tasks.lock();
        self.remove(&mut tasks, number);
        tasks.take_turns()
    }

    /// How many there are.
    pub fn unfinished(&self) -> usize {
        self.tasks.lock().unfinished.len()
    }

    /// The number of the task with a tag.
    pub fn find(&self, tag: u32) -> Option<u64> {
        let tasks = self.tasks.lock();
        let found = tasks.unfinished.iter().find(|task| task.tag == tag);
        found.map(|task| task.number)
    }

    /// Gives up those tasks that are not done yet, and has those that are being done not answered.
    /// Returns the jobs whose turn it is then, and how many of the tasks that are over had a command
    /// number.
    pub fn give_up(&self, which: impl Fn(u64) -> bool) -> (Vec<Job>, usize) {
        let mut tasks = self.tasks.lock();
        for task in tasks
            .unfinished
            .iter_mut()
            .filter(|task| which(task.number))
        {
            task.is_given_up = true;
        }
        let mut numbered = 0;
        tasks.unfinished.retain(|task| {
            let is_idle = matches!(task.state, State::Waiting(_) | State::Queued);
            let is_over = task.is_given_up && is_idle;
            numbered += usize::from(is_over && task.is_numbered);
            !is_over
        });
        tasks.count_special();
        (tasks.take_turns(), numbered)
    }

    /// Returns when nothing that was given up is still being done. Only what a thread is at counts: a pool
    /// whose threads wait here would never come to what is queued.
    pub fn wait_for_given_up(&self) {
        let mut tasks = self.tasks.lock();
        let runs = |task: &Task| task.is_given_up && matches!(task.state, State::Running);
        while tasks.unfinished.iter().any(runs) {
            self.ended.wait(&mut tasks);
        }
    }

    /// Takes no more tasks, and gives all up.
    pub fn close(&self) {
        self.tasks.lock().closed = true;
        drop(self.give_up(|_| true));
    }

    fn remove(&self, tasks: &mut Tasks, number: u64) {
        let Some(at) = tasks
            .unfinished
            .iter()
            .position(|task| task.number == number)
        else {
            return;
        };
        let task = tasks.unfinished.remove(at);
        tasks.special -= usize::from(task.attribute != Attribute::Simple);
        if task.is_given_up {
            self.ended.notify_all();
        }
    }
}

impl Tasks {
    /// Whether a task's turn has come; then it is in this state.
    fn enter(&mut self, number: u64, state: State) -> bool {
        if !self.is_turn_of(number) {
            return false;
        }
        match self.get(number) {
            Some(task) if !task.is_given_up => {
                task.state = state;
                true
            }
            _ => false,
        }
    }

    fn get(&mut self, number: u64) -> Option<&mut Task> {
        self.unfinished
            .iter_mut()
            .find(|task| task.number == number)
    }

    fn count_special(&mut self) {
        let special = self
            .unfinished
            .iter()
            .filter(|task| task.attribute != Attribute::Simple);
        self.special = special.count();
    }

    fn is_turn_of(&self, number: u64) -> bool {
        // Mostly there are simple ones alone.
        if self.special == 0 {
            return true;
        }
        // One that was given up while its data come in is never done: nobody waits for it.
        let is_nothing = |task: &Task| task.is_given_up && matches!(task.state, State::Collecting);
        let older = self
            .unfinished
            .iter()
            .take_while(|task| task.number < number)
            .filter(|task| !is_nothing(task));
        let own = self.unfinished.iter().find(|task| task.number == number);
        match own.map(|task| task.attribute) {
            None | Some(Attribute::HeadOfQueue) => true,
            Some(Attribute::Ordered) => older.count() == 0,
            Some(Attribute::Simple) => older
                .into_iter()
                .all(|task| task.attribute == Attribute::Simple),
        }
    }

    /// Those that wait and need not any more.
    fn take_turns(&mut self) -> Vec<Job> {
        let waits = |task: &Task| matches!(task.state, State::Waiting(_));
        let waiting: Vec<u64> = self
            .unfinished
            .iter()
            .filter(|task| waits(task))
            .map(|task| task.number)
            .collect();
        let mut jobs = Vec::new();
        for number in waiting {
            if self.is_turn_of(number)
                && let Some(task) = self.get(number)
                && let State::Waiting(job) = std::mem::replace(&mut task.state, State::Queued)
            {
                jobs.push(job);
            }
        }
        jobs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Attribute::{HeadOfQueue, Ordered, Simple};

    fn waits(order: &Order, number: u64) -> bool {
        matches!(order.start_or_wait(number, Box::new(|| {})), Turn::Later)
    }

    #[test]
    fn simple_tasks_are_done_in_any_order() {
        let order = Order::default();
        let (a, b) = (
            order.begin(1, Simple, true).unwrap(),
            order.begin(2, Simple, true).unwrap(),
        );
        assert!(order.start(b) && order.start(a));
        assert!(order.end(b).is_empty() && order.end(a).is_empty());
        assert_eq!(order.unfinished(), 0);
    }

    #[test]
    fn an_ordered_task_waits_for_all_before_it_and_is_waited_for() {
        let order = Order::default();
        let first = order.begin(1, Simple, true).unwrap();
        let ordered = order.begin(2, Ordered, true).unwrap();
        let last = order.begin(3, Simple, true).unwrap();
        assert!(!order.start(ordered));
        assert!(waits(&order, last) && waits(&order, ordered));
        assert!(order.start(first));
        assert_eq!(order.end(first).len(), 1, "the ordered one");
        assert_eq!(order.end(ordered).len(), 1, "the last one");
        assert!(order.end(last).is_empty());
    }

    #[test]
    fn the_head_of_the_queue_waits_for_nothing() {
        let order = Order::default();
        let ordered = order.begin(1, Ordered, true).unwrap();
        let head = order.begin(2, HeadOfQueue, true).unwrap();
        let simple = order.begin(3, Simple, true).unwrap();
        assert!(order.start(head) && waits(&order, simple));
        assert!(order.end(head).is_empty(), "the ordered one is not done");
        assert!(order.start(ordered));
        assert_eq!(order.end(ordered).len(), 1);
    }

    #[test]
    fn tags_are_used_once_at_a_time() {
        let order = Order::default();
        let number = order.begin(1, Simple, true).unwrap();
        assert_eq!(order.begin(1, Simple, true), Err(Refused::TagInUse));
        assert_eq!(order.find(1), Some(number));
        order.end(number);
        assert!(order.begin(1, Simple, true).is_ok());
        order.close();
        assert_eq!(order.begin(2, Simple, true), Err(Refused::Closed));
    }

    #[test]
    fn tasks_without_a_number_are_few() {
        let order = Order::default();
        for tag in 0..MOST_IMMEDIATE as u32 {
            order.begin(tag, Simple, false).unwrap();
        }
        assert_eq!(order.begin(100, Simple, false), Err(Refused::TooMany));
        assert!(order.begin(101, Simple, true).is_ok());
        order.end(0);
        assert!(order.begin(102, Simple, false).is_ok());
    }

    #[test]
    fn what_is_given_up_is_not_answered() {
        let order = std::sync::Arc::new(Order::default());
        let runs = order.begin(1, Ordered, true).unwrap();
        let waiting = order.begin(2, Simple, true).unwrap();
        let other = order.begin(3, Simple, true).unwrap();
        assert!(order.start(runs) && waits(&order, waiting) && waits(&order, other));
        let (jobs, over) = order.give_up(|number| number != other);
        assert_eq!((jobs.len(), over), (0, 1));
        assert!(order.is_given_up(runs) && order.is_given_up(waiting) && !order.is_given_up(other));
        let waiter = std::sync::Arc::clone(&order);
        let waiter = std::thread::spawn(move || waiter.wait_for_given_up());
        assert_eq!(order.end(runs).len(), 1);
        waiter.join().unwrap();
    }

    #[test]
    fn two_that_give_each_other_up_do_not_wait_for_each_other() {
        let orders = std::sync::Arc::new([Order::default(), Order::default()]);
        let numbers = [0, 1].map(|of| orders[of].begin(1, Simple, true).unwrap());
        for (order, number) in orders.iter().zip(numbers) {
            assert!(order.start(number));
        }
        let both = std::sync::Arc::new(std::sync::Barrier::new(2));
        let threads = [(0, 1), (1, 0)].map(|(own, other)| {
            let (orders, both) = (orders.clone(), both.clone());
            std::thread::spawn(move || {
                let orders: &[Order; 2] = &orders;
                orders[other].give_up(|_| true);
                both.wait();
                orders[own].rest(numbers[own]);
                orders[other].wait_for_given_up();
                assert!(orders[own].is_given_up(numbers[own]));
                orders[own].end(numbers[own]);
            })
        });
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        assert!(orders.iter().all(|order| order.unfinished() == 0));
    }

    #[test]
    fn data_of_a_task_that_was_given_up_lead_to_nothing() {
        let order = Order::default();
        let number = order.begin(1, Simple, true).unwrap();
        order.give_up(|_| true);
        order.wait_for_given_up();
        assert!(!order.start(number));
        assert!(matches!(
            order.start_or_wait(number, Box::new(|| {})),
            Turn::GivenUp
        ));
        assert_eq!(order.unfinished(), 0);
    }

    #[test]
    fn nobody_waits_for_data_that_were_given_up() {
        let order = Order::default();
        let collecting = order.begin(1, Ordered, true).unwrap();
        let ordered = order.begin(2, Ordered, true).unwrap();
        assert!(waits(&order, ordered));
        let (jobs, _) = order.give_up(|number| number == collecting);
        assert_eq!(jobs.len(), 1, "the other's turn has come");
        let last = order.begin(3, Ordered, true).unwrap();
        assert!(order.end(ordered).is_empty());
        assert!(order.start(last));
    }

    #[test]
    fn what_is_given_up_before_a_thread_comes_to_it_is_not_done() {
        let order = Order::default();
        let queued = order.begin(1, Ordered, true).unwrap();
        let waiting = order.begin(2, Simple, false).unwrap();
        assert!(order.queue(queued) && waits(&order, waiting));
        let (jobs, numbered) = order.give_up(|_| true);
        assert_eq!((jobs.len(), numbered), (0, 1), "the other has no number");
        // Nobody waits for what no thread is at.
        order.wait_for_given_up();
        assert!(!order.run(queued));
        assert!(order.end(queued).is_empty());
        let next = order.begin(1, Simple, true).unwrap();
        assert!(order.queue(next) && order.run(next));
    }
}
