"""The search scripts, one per question, and the system that plans, runs, tracks and reports them."""
