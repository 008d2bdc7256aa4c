//! Works off the queues: privacy jobs, app lifecycle, the mirrored data.
