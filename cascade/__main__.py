"""`python -m cascade`, and what torchrun, accelerate and deepspeed start."""

from cascade.cli import main

if __name__ == "__main__":
    main()
