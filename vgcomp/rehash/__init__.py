"""Step rehash: a denoiser's steps as full and reuse programs, calibrated, scheduled and run.

found = rehash(program, denoising, jobs, full=13)      # where and when, calibrated on the jobs
clip = run_schedule(found.modules(), found.plan, job)  # any backend's callables will do
"""
