"""The console command ``detcon_d2``, and the tools that belong to no other folder."""
