"""The claims of three papers, asked again on models with room: bases, arms, jobs, estimates, a report."""
